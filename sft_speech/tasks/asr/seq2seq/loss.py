"""The cross entropy of labels, summed and in float32, as the trainer needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from sft_speech.training.loss import WEIGHTS, LossOutput, weighted, weighted_count

IGNORED = -100  # padding of labels, and the prefix, which is given and not learned


def token_losses(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return the cross entropy of every utterance, summed over its labels, in float32.

    Args:
        logits: (B, L, V), B utterances, L tokens, V entries of the vocabulary.
        labels: (B, L), :data:`IGNORED` where nothing is learned.
        smoothing: share of the target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).

    Returns:
        (B,)
    """
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.view(labels.shape).sum(-1)


class Seq2SeqCriterion:
    """The criterion of fine-tuning a sequence-to-sequence recognizer.

    Args:
        smoothing: see :func:`token_losses`.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing

    def count(self, batch: dict[str, Any]) -> float:
        """Return the number of labels: the loss of a step is in nats per label, whatever the batch size."""
        return weighted_count((batch["labels"] != IGNORED).sum(-1), batch)

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Return the loss of a batch of :class:`~sft_speech.tasks.asr.seq2seq.collator.Seq2SeqCollator`."""
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name not in {"labels", "seconds", WEIGHTS}}
        logits = model(**inputs, use_cache=False).logits
        with torch.no_grad():
            learned = labels != IGNORED
            figures = {
                "labels": learned.sum(),
                "correct": ((logits.argmax(-1) == labels) & learned).sum(),
                "seconds": batch["seconds"],
            }
        losses = weighted(token_losses(logits, labels, self.smoothing), batch)
        return LossOutput(losses.sum(), figures, losses.detach())

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the share of labels that were the most probable token, given the ones before them."""
        return {"label_accuracy": sums["correct"] / max(sums["labels"], 1)}
