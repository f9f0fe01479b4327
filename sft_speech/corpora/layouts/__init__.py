"""The layouts of a corpus on disk: one module each, and their table."""

from __future__ import annotations

from sft_speech.corpora.layouts import (
    audiofolder,
    classes,
    elan,
    labels,
    lhotse,
    librispeech,
    ljspeech,
    manifest,
    nist,
    parquet,
    subtitles,
    textgrid,
    webdataset,
)
from sft_speech.corpora.rows import Layout

LAYOUTS: tuple[Layout, ...] = (
    manifest.LAYOUT,
    ljspeech.LAYOUT,
    audiofolder.LAYOUT,
    librispeech.LAYOUT,
    parquet.LAYOUT,
    lhotse.LAYOUT,
    webdataset.LAYOUT,
    textgrid.LAYOUT,
    elan.LAYOUT,
    nist.STM,
    nist.CTM,
    subtitles.LAYOUT,
    labels.TABLES,
    labels.AUDACITY,
    classes.LAYOUT,
)
