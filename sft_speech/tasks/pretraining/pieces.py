"""Long recordings as pieces of equal length, without copies of their rows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from sft_speech.corpora.rows import column_of
from sft_speech.options.config import FinetuneConfig
from sft_speech.text.counted import counted
from sft_speech.training.plan import REPEATS
from sft_speech.training.rows import StoredRows

logger = logging.getLogger(__name__)

MOST = REPEATS  # pieces of a recording: as many as an epoch tells apart


def piece_counts(seconds: np.ndarray, max_seconds: float) -> np.ndarray:
    """Return the number of pieces (N,) of recordings of so many seconds (N,)."""
    # A thousandth of a sample more makes no second piece.
    return np.maximum(1, np.ceil(np.asarray(seconds) / max_seconds - 1e-7)).astype(int)


def piece_seconds(seconds: np.ndarray, max_seconds: float) -> np.ndarray:
    """Return the length (N,) of the pieces of recordings, which are equal."""
    return np.asarray(seconds) / piece_counts(seconds, max_seconds)


def piece_of(row: Mapping[str, Any], number: int, max_seconds: float) -> dict[str, Any]:
    """Return the row of a piece of a recording, counted from 0; a short recording is its own only piece."""
    count = int(piece_counts(row["seconds"], max_seconds))
    if count == 1:
        return dict(row)
    length = row["seconds"] / count
    start = (row["start"] or 0.0) + number % count * length
    return {**row, "id": f"{row['id']}@{start:.2f}", "start": start, "seconds": length}


@dataclasses.dataclass(frozen=True)
class PieceDraw:
    """Draws every piece once in every epoch (a :class:`~sft_speech.training.plan.Draw`).

    Args:
        counts: (N,) pieces of each recording.
    """

    counts: np.ndarray

    @property
    def copies(self) -> int:
        return int(self.counts.max(initial=1))

    @property
    def record(self) -> dict[str, Any]:
        return {"pieces": int(self.counts.sum())}

    def keys(self, epoch: int) -> np.ndarray:
        rows = np.repeat(np.arange(len(self.counts)), self.counts)
        first = np.cumsum(self.counts) - self.counts
        return np.sort((np.arange(len(rows)) - first[rows]) * len(self.counts) + rows)


@dataclasses.dataclass(frozen=True)
class PieceRows(StoredRows):
    """Stored rows of any length, of which every epoch has all pieces.

    Args:
        max_seconds: the longest piece.
    """

    max_seconds: float = np.inf

    def draw(self, config: FinetuneConfig) -> PieceDraw | None:
        counts = piece_counts(column_of(self.table, "seconds").to_numpy(), self.max_seconds)
        draw = PieceDraw(counts) if counts.max(initial=1) > 1 else None
        if draw is not None:
            whole, pieces = counted(len(counts), "recording"), counted(int(counts.sum()), "piece")
            logger.info("train: %s in %s of at most %g s", whole, pieces, self.max_seconds)
        return draw
