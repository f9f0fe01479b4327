"""A trial: one batch forward and backward, without a trace in the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import send_to_device

from sft_speech.training.loss import Criterion
from sft_speech.training.saving import preserved_rng


def trial_step(
    model: torch.nn.Module,
    criterion: Criterion,
    make_batch: Callable[[], dict[str, Any]],
    device: torch.device,
    *,
    copies: int,
    autocast: AbstractContextManager[Any],
) -> None:
    """Train on a batch without changing anything: weights, buffers, gradients and random states are restored.

    Args:
        make_batch: returns the batch; it may draw random numbers.
        copies: tensors of the size of the trained weights to reserve, see :func:`copies_of_weights`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]  # such as the statistics of batch norm
    training = model.training
    with preserved_rng(device):
        try:
            reserved = [torch.empty_like(p) for p in trained for _ in range(copies)]
            batch = make_batch()
            model.train()
            with autocast:
                summed = criterion.loss(model, send_to_device(batch, device))
            summed.total.backward()
        finally:
            model.zero_grad(set_to_none=True)
            model.train(training)
            reserved = []  # noqa: F841 - frees them
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def copies_of_weights(optim: str, processes: int, accumulates: bool) -> int:
    """Return how many copies of the trained weights are kept while a batch is trained on.

    Args:
        optim: optimizer; AdamW has two moments.
        processes: several have buckets to send gradients in.
        accumulates: whether the gradients of earlier batches are kept.
    """
    return (0 if optim == "adafactor" else 2) + (processes > 1) + accumulates
