"""Rows of a corpus as utterances for training, made in a loader's worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sft_speech.audio import read as audio
from sft_speech.errors import concerning
from sft_speech.models.spec_augment import SpecAugment
from sft_speech.training.loss import WEIGHTS

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Augment = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


class Utterances(torch.utils.data.Dataset):
    """Rows as waveforms and labels, decoded on access.

    Args:
        rows: usable rows of a corpus, see ``load_corpus``.
        rate: samples per second of the model.
        encode: turns a row's ``column`` into labels.
        column: column of the target, such as "text".
        augment: changes a waveform; draws from a generator seeded by (seed, epoch, utterance), so that a resumed run
            gets the same.
        spec_augment: draws masks, which the model then applies (:mod:`sft_speech.models.spec_augment`).
    """

    def __init__(
        self,
        rows: Dataset | Sequence[Mapping[str, Any]],
        rate: int,
        encode: Callable[[str], Sequence[int]],
        column: str = "text",
        augment: Augment | None = None,
        seed: int = 0,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        self.rows, self.rate, self.encode, self.column = rows, rate, encode, column
        self.augment, self.seed, self.spec_augment = augment, seed, spec_augment

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        """Return an utterance by (epoch, index); None if its audio can no longer be read."""
        epoch, index = key
        return self.made_of(self.rows[index], epoch, index)

    def made_of(self, row: Mapping[str, Any], epoch: int, number: int) -> dict[str, Any] | None:
        """Return the utterance of a row; ``number`` seeds its augmentation and masks."""
        with concerning(f"utterance {row['id']}"):
            return self._made_of(row, epoch, number)

    def _made_of(self, row: Mapping[str, Any], epoch: int, number: int) -> dict[str, Any] | None:
        try:
            waveform = audio.read_row(row, self.rate)
        except audio.AudioError as error:
            logger.warning("utterance %s left out: %s", row["id"], error)
            return None
        if self.augment is not None:
            waveform = self.augment(waveform, self.rate, np.random.default_rng((self.seed, epoch, number)))
        utterance = {"id": row["id"], "waveform": waveform, **self.target(row, waveform, epoch, number)}
        if row.get("weight") is not None:
            utterance["weight"] = row["weight"]
        if self.spec_augment is not None:
            utterance["masks"] = self.spec_augment(len(waveform), epoch, number)
        return utterance

    def target(self, row: Mapping[str, Any], waveform: np.ndarray, epoch: int, number: int) -> dict[str, Any]:
        """Return what is learned from a row, by name: its "labels".

        Args:
            waveform: the audio of the row after augmentation.
        """
        return {"labels": self.encode(row[self.column])}


def weights_of(utterances: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the weights (B,) of utterances by their name in a batch; nothing if none of them has one."""
    if not any("weight" in one for one in utterances):
        return {}
    return {WEIGHTS: torch.tensor([one.get("weight", 1.0) for one in utterances], dtype=torch.float32)}
