"""The loss of a classifier: a sum over utterances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sft_speech.training.loss import LossOutput

IGNORED = -100  # label of an utterance that could not be read


class ClassificationCriterion:
    """Cross entropy of one label per utterance, or the mean binary cross entropy over all labels.

    The loss of a step is its sum over the number of utterances.

    Args:
        multi_label: whether an utterance may have several labels.
        weights: (C,) for C classes: factors on the loss of their utterances or, with several labels, of a label's
            presence.
    """

    def __init__(self, multi_label: bool = False, weights: Tensor | None = None) -> None:
        self.multi_label, self.weights = multi_label, weights

    def count(self, batch: dict[str, Any]) -> int:
        """Return the number of utterances."""
        return int(self.known(batch["labels"]).sum())

    def known(self, labels: Tensor) -> Tensor:
        """Return (B,) True where an utterance has labels."""
        return (labels if labels.ndim == 1 else labels[:, 0]) != IGNORED

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Return the loss of a batch of :class:`~sft_speech.tasks.classification.collator.ClassificationCollator`."""
        labels = batch["labels"]
        logits = model(**{name: value for name, value in batch.items() if name not in ("labels", "seconds")}).logits
        with torch.no_grad():
            right = (logits > 0) == (labels > 0) if self.multi_label else logits.argmax(-1) == labels
            known = self.known(labels)
            correct = (right.all(-1) if self.multi_label else right) & known
            figures = {"correct": correct.sum(), "utterances": known.sum(), "seconds": batch["seconds"]}
        losses = self.losses(logits, labels)
        return LossOutput(losses.sum(), figures, losses.detach())

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (B,) of each utterance, 0 without labels.

        Args:
            logits: (B, C) of B utterances and C classes.
            labels: (B,) ids, or (B, C) with 1 for a label that applies and 0 for one that does not.
        """
        logits = logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device, logits.dtype)
        if not self.multi_label:
            return functional.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none")
        known = self.known(labels)
        targets = labels.clamp(min=0).to(logits.dtype)
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
        return losses.mean(-1) * known

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the accuracy on the training utterances, as augmented and with dropout."""
        return {"accuracy": sums["correct"] / max(sums["utterances"], 1)}
