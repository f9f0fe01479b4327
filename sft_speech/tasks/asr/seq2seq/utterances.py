"""Utterances of a corpus with the labels of a sequence-to-sequence model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sft_speech.tasks.asr.seq2seq.transcripts import Transcripts
from sft_speech.training.utterances import Utterances


class Seq2SeqUtterances(Utterances):
    """Utterances with the prefix of their language, some of them with timestamps.

    Args:
        transcripts: makes labels.
        timestamp_share: share of the segments of longer recordings whose labels begin and end with their times.
        options: of :class:`~sft_speech.training.utterances.Utterances`.
    """

    def __init__(self, rows: Any, rate: int, transcripts: Transcripts, timestamp_share: float, **options: Any) -> None:
        super().__init__(rows, rate, transcripts.encode, **options)
        self.transcripts, self.timestamp_share = transcripts, timestamp_share

    def target(self, row: Mapping[str, Any], waveform: np.ndarray, epoch: int, number: int) -> dict[str, Any]:
        drawn = np.random.default_rng((self.seed, epoch, number, 1)).random()  # 1: not the numbers of the augmentation
        timed = row["start"] is not None and drawn < self.timestamp_share
        times = (0.0, len(waveform) / self.rate) if timed else None
        # Only the noise of the memory check has no language at all.
        language = row.get("language") or self.transcripts.language or next(iter(self.transcripts.languages), None)
        return {
            "prefix": self.transcripts.prefix(language, timestamps=timed),
            "labels": self.transcripts.encode(row[self.column], language, times),
        }
