"""The layouts of a corpus on disk: one module each, and their table."""

from __future__ import annotations

from sft_speech.corpora.layouts import audiofolder, classes, librispeech, ljspeech, manifest, parquet
from sft_speech.corpora.rows import Layout

LAYOUTS: tuple[Layout, ...] = (
    manifest.LAYOUT,
    ljspeech.LAYOUT,
    audiofolder.LAYOUT,
    librispeech.LAYOUT,
    parquet.LAYOUT,
    classes.LAYOUT,
)
