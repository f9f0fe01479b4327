"""The loss of a task as a sum, and the count that the sum is divided by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass
class LossOutput:
    """The loss of one batch, not averaged.

    Args:
        total: scalar, the sum of the losses of the batch's utterances.
        figures: scalars by name that are summed up until the next line of the log.
    """

    total: torch.Tensor
    figures: dict[str, torch.Tensor] = field(default_factory=dict)


class Criterion(Protocol):
    """What the trainer minimizes."""

    def count(self, batch: dict[str, Any]) -> int:
        """Return the batch's part of what the loss of a step is divided by: labels for CTC, frames for synthesis."""

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Run the model on a batch of its collator."""

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """Return figures for the log, from sums over all processes since its last line."""
