"""The CTC loss, summed and in float32, as the trainer needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from sft_speech.training.loss import WEIGHTS, LossOutput, weighted, weighted_count

IGNORED = -100  # padding of labels


def ctc_losses(logits: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, blank: int) -> torch.Tensor:
    """Return the CTC loss of every utterance (Graves et al. 2006), not divided by anything.

    It is computed in float32: sums over hundreds of frames are inexact in half precision.

    Args:
        logits: (B, T, V), B utterances, T frames, V entries of the vocabulary.
        frames: (B,) frames of each utterance, without padding.
        labels: (B, L) padded with :data:`IGNORED`.
        blank: index of the blank.

    Returns:
        (B,), zero with zero gradient for an utterance that does not fit (:func:`unfitting`) or has no labels.
    """
    own = labels != IGNORED
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    losses = functional.ctc_loss(
        log_probabilities,
        labels.masked_fill(~own, 0),
        frames,
        own.sum(-1),
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    return torch.where(own.any(-1), losses, 0.0)


def unfitting(frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (B,) True where labels (B, L) need more than their frames (B,): repeated labels need a blank between."""
    own = labels != IGNORED
    repeats = ((labels[:, 1:] == labels[:, :-1]) & own[:, 1:]).sum(-1)
    return own.sum(-1) + repeats > frames


class CtcCriterion:
    """The criterion of CTC fine-tuning.

    Args:
        blank: index of the blank.
    """

    def __init__(self, blank: int) -> None:
        self.blank = blank

    def count(self, batch: dict[str, Any]) -> float:
        """Return the number of labels: the loss of a step is in nats per label, whatever the batch size."""
        return weighted_count((batch["labels"] != IGNORED).sum(-1), batch)

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Return the loss of a batch of :class:`~sft_speech.tasks.asr.ctc.collator.CTCCollator`."""
        apart = {"labels", "frames", "seconds", WEIGHTS}
        logits = model(**{name: value for name, value in batch.items() if name not in apart}).logits
        frames, labels = batch["frames"], batch["labels"]
        with torch.no_grad():
            own = torch.arange(logits.shape[1], device=logits.device) < frames[:, None]
            figures = {
                "frames": frames.sum(),
                "blanks": ((logits.argmax(-1) == self.blank) & own).sum(),
                "zeroed": unfitting(frames, labels).sum(),
                "seconds": batch["seconds"],
            }
        losses = weighted(ctc_losses(logits, frames, labels, self.blank), batch)
        return LossOutput(losses.sum(), figures, losses.detach())

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the share of blank frames, and the number of utterances whose loss was set to zero, if any."""
        figures = {"blank_share": sums["blanks"] / max(sums["frames"], 1)}
        if sums["zeroed"]:
            figures["zeroed_utterances"] = sums["zeroed"]
        return figures
