"""Utterances to the tensors of a batch, in a data loader's worker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sft_speech.audio.units import seconds_of
from sft_speech.inference.batching import rounded
from sft_speech.models.spec_augment import with_masks
from sft_speech.tasks.asr.ctc.loss import IGNORED
from sft_speech.training.utterances import weights_of

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint


class CTCCollator:
    """Pads utterances to a batch.

    Every clip is normalized separately before padding, so that it does not depend on its neighbors.

    Args:
        checkpoint: the recognizer.
        whole_seconds: waveforms are padded to a multiple of so many seconds. On a CPU this saves up to a third of the
            time of a step, see :mod:`sft_speech.inference.batching`.
        max_batch_seconds: this padding ends where the padded seconds of the batch reach this limit.
    """

    def __init__(
        self, checkpoint: Checkpoint, whole_seconds: float | None = None, max_batch_seconds: float = math.inf
    ) -> None:
        self.features, self.frames, self.rate = checkpoint.features, checkpoint.frames, checkpoint.rate
        self.multiple = round(whole_seconds * self.rate) if whole_seconds else 1
        self.max_samples = max_batch_seconds * self.rate

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, and labels (B, L) padded with -100, frames (B,), seconds () of unpadded audio.

        If no utterance could be read, the batch is a second of silence without labels, which adds nothing to the loss
        and keeps the processes in step.
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
            **weights_of(read),
            **with_masks(rounded(self.features(waveforms), self.multiple, self.max_samples), masks),
            "labels": labels,
            "frames": torch.as_tensor(self.frames(samples)),
            "seconds": torch.tensor(seconds_of(int(samples.sum()), self.rate)),
        }
