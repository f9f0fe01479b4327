"""The loss of a task as a sum, and the count that the sum is divided by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

WEIGHTS = "weights"  # in a batch: (B,) factors on the losses of its B utterances; without it, all are 1


@dataclass
class LossOutput:
    """The loss of one batch, not averaged.

    Args:
        total: scalar, the sum of the losses of the batch's utterances.
        figures: tensors by name, summed until the next line of the log.
        each: (B,) losses of the B utterances, whose sum is ``total``; None if they are not known.
    """

    total: torch.Tensor
    figures: dict[str, torch.Tensor] = field(default_factory=dict)
    each: torch.Tensor | None = None


class Criterion(Protocol):
    """The objective that the trainer minimizes."""

    def count(self, batch: dict[str, Any]) -> float:
        """Return the batch's share of the divisor of a step's loss: labels for CTC, frames for synthesis."""

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Run the model on a collated batch and return its loss."""

    def report(self, sums: dict[str, Any]) -> dict[str, float]:
        """Return figures for the log, given the sums over all processes since its last line: numbers or nested lists of
        them.
        """


@runtime_checkable
class StepCriterion(Criterion, Protocol):
    """A criterion whose loss of a batch depends on the other batches of its optimizer step."""

    def begin_step(
        self,
        model: torch.nn.Module,
        batches: list[dict[str, Any]],
        device: torch.device,
        summed: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        """Look at all batches of a step before the first one is trained on.

        Args:
            model: the model in training, as it is wrapped for several processes.
            batches: those of this process, on the CPU.
            device: the device of the model.
            summed: sums a tensor over all processes; None if there is only one.
        """


def weighted(losses: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """Return the losses (B,) of the utterances of a batch, times their weights."""
    return losses * batch[WEIGHTS].to(losses) if WEIGHTS in batch else losses


def weighted_count(counts: torch.Tensor, batch: dict[str, Any]) -> float:
    """Return the sum of the counts (B,) of the utterances of a batch, times their weights.

    Loss and count have the same weights, so the loss of a step is a weighted mean: of two utterances, one of weight 0.5
    has half of the influence on a label; weights that are all the same change nothing.
    """
    return float((counts * batch[WEIGHTS].double()).sum()) if WEIGHTS in batch else int(counts.sum())
