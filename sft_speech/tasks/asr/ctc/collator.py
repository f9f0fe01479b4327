"""From a row of a corpus to the tensors of a batch, in a loader's worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sft_speech.audio import read as audio
from sft_speech.audio.units import seconds_of
from sft_speech.errors import concerning
from sft_speech.models.spec_augment import SpecAugment, collated
from sft_speech.tasks.asr.ctc.loss import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

Augment = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


class Utterances(torch.utils.data.Dataset):
    """Rows of a corpus as waveforms and labels, decoded when asked for.

    Args:
        rows: a corpus (see ``load_corpus``) whose transcripts are normalized.
        checkpoint: gives the rate and the labels.
        augment: changes a waveform; draws from a generator seeded by (seed, epoch, utterance), so that a resumed run
            hears the same.
        spec_augment: draws masks, which the model then takes (:mod:`sft_speech.models.spec_augment`).
    """

    def __init__(
        self,
        rows: Dataset | Sequence[Mapping[str, Any]],
        checkpoint: Checkpoint,
        augment: Augment | None = None,
        seed: int = 0,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        self.rows, self.augment, self.seed, self.spec_augment = rows, augment, seed, spec_augment
        self.rate, self.encode = checkpoint.rate, checkpoint.encode

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        """An utterance by (epoch, index), or None where its audio can't be read after all."""
        epoch, index = key
        return self.made_of(self.rows[index], epoch, index)

    def made_of(self, row: Mapping[str, Any], epoch: int, number: int) -> dict[str, Any] | None:
        """An utterance out of its row; ``number`` is what tells its augmentation and masks from those of others."""
        with concerning(f"utterance {row['id']}"):
            return self._made_of(row, epoch, number)

    def _made_of(self, row: Mapping[str, Any], epoch: int, number: int) -> dict[str, Any] | None:
        try:
            waveform = audio.read(row["audio"], self.rate, start=row["start"], seconds=row["seconds"])
        except audio.AudioError as error:
            logger.warning("utterance %s left out: %s", row["id"], error)
            return None
        if self.augment is not None:
            waveform = self.augment(waveform, self.rate, np.random.default_rng((self.seed, epoch, number)))
        utterance = {"id": row["id"], "waveform": waveform, "labels": self.encode(row["text"])}
        if self.spec_augment is not None:
            utterance["masks"] = self.spec_augment(len(waveform), epoch, number)
        return utterance


class CTCCollator:
    """Pads utterances to a batch.

    Every clip is normalized separately before padding, so that it does not depend on its neighbors.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.features, self.frames, self.rate = checkpoint.features, checkpoint.frames, checkpoint.rate

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, and labels (B, L) padded with -100, frames (B,), seconds () of unpadded audio.

        If no utterance of the batch could be read, it is a second of silence without labels: this adds nothing to the
        loss and keeps the processes in step.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        if not read:
            read = [{"waveform": np.zeros(self.rate, np.float32), "labels": []}]
        waveforms = [utterance["waveform"] for utterance in read]
        labels = torch.full((len(read), max(1, *(len(u["labels"]) for u in read), 1)), IGNORED)
        for row, utterance in enumerate(read):
            labels[row, : len(utterance["labels"])] = torch.tensor(utterance["labels"], dtype=torch.long)
        samples = np.array([len(waveform) for waveform in waveforms])
        masks = [utterance["masks"] for utterance in read if "masks" in utterance]
        return {
            **self.features(waveforms),
            **(collated(masks) if masks else {}),
            "labels": labels,
            "frames": torch.as_tensor(self.frames(samples)),
            "seconds": torch.tensor(seconds_of(int(samples.sum()), self.rate)),
        }
