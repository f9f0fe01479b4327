"""Batch norm that does not mix the clips of a batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class RunningBatchNorm(nn.BatchNorm1d):
    """Batch norm that keeps the statistics of pretraining: in training mode too, a clip doesn't see its neighbors."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, T) by the running statistics."""
        return functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )
