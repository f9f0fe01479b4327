"""The layouts of a corpus on disk: one module each, and their table."""

from __future__ import annotations

from sft_speech.corpora.layouts import (
    arctic,
    audiofolder,
    classes,
    commonvoice,
    elan,
    kaldi,
    labels,
    lhotse,
    librispeech,
    ljspeech,
    manifest,
    nemo,
    nist,
    parquet,
    recordings,
    sidecars,
    subtitles,
    textgrid,
    vctk,
    webdataset,
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
    lhotse.LAYOUT,
    webdataset.LAYOUT,
    # Fallbacks, looked for in this order if no other layout was found:
    nemo.LAYOUT,
    textgrid.LAYOUT,
    elan.LAYOUT,
    nist.STM,
    nist.CTM,
    subtitles.LAYOUT,
    labels.TABLES,
    labels.AUDACITY,
    sidecars.LAYOUT,
    classes.LAYOUT,
    recordings.LAYOUT,
)
