"""Utterances to the tensors of a batch, in a data loader's worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sft_speech.models.spec_augment import with_masks
from sft_speech.tasks.classification.loss import IGNORED

if TYPE_CHECKING:
    from sft_speech.tasks.classification.checkpoint import Checkpoint


class ClassificationCollator:
    """Pads utterances to a batch."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.features, self.rate = checkpoint.front_end.features, checkpoint.rate
        self.time_axis = checkpoint.front_end.time_axis
        self.classes, self.multi = len(checkpoint.labels.names), checkpoint.labels.multi

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, Tensor]:
        """Return the inputs of the model, "labels" of :func:`targets`, and "seconds" () of audio.

        If no utterance could be read, the batch is a second of silence without labels, which keeps the processes in
        step.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        read = read or [{"waveform": np.zeros(self.rate, np.float32), "labels": []}]
        masks = [utterance["masks"] for utterance in read if "masks" in utterance]
        inputs = self.features([utterance["waveform"] for utterance in read])
        return {
            **with_masks(inputs, masks, self.time_axis),
            "labels": targets([utterance["labels"] for utterance in read], self.classes, self.multi),
            "seconds": torch.tensor(sum(len(utterance["waveform"]) for utterance in read) / self.rate),
        }


def targets(labels: Sequence[Sequence[int]], classes: int, multi: bool) -> Tensor:
    """Return labels as the loss takes them: ids (B,), or (B, classes) of 0 and 1 with several per clip.

    Clips without labels have :data:`~sft_speech.tasks.classification.loss.IGNORED`.
    """
    if not multi:
        return torch.tensor([own[0] if own else IGNORED for own in labels])
    made = torch.zeros((len(labels), classes), dtype=torch.long)
    for row, own in zip(made, labels, strict=True):
        row[list(own)] = 1
        if not own:
            row[:] = IGNORED
    return made
