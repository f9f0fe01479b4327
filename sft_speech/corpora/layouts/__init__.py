"""The layouts of a corpus on disk: one module each, and their table."""

from __future__ import annotations

from sft_speech.corpora.layouts import (
    arctic,
    audiofolder,
    classes,
    commonvoice,
    kaldi,
    librispeech,
    ljspeech,
    manifest,
    nemo,
    parquet,
    sidecars,
    vctk,
)
from sft_speech.corpora.rows import Layout

LAYOUTS: tuple[Layout, ...] = (
    manifest.LAYOUT,
    ljspeech.LAYOUT,
    audiofolder.LAYOUT,
    librispeech.LAYOUT,
    parquet.LAYOUT,
    commonvoice.LAYOUT,
    vctk.LAYOUT,
    arctic.LAYOUT,
    kaldi.LAYOUT,
    # Fallbacks, looked for in this order if no other layout was found:
    nemo.LAYOUT,
    sidecars.LAYOUT,
    classes.LAYOUT,
)
