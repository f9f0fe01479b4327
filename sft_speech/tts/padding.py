"""Padding that can't be heard: what SpeechT5 predicts for a clip doesn't depend on the clips beside it in the batch.

In plain transformers it does, in two places of the postnet:

1. Its convolutions over time see whatever the decoder predicts behind a clip's end, where a clip alone sees zeros.
2. Its batch norms, in training mode, take their statistics over all clips and over the padding.

The encoder and the decoder need their attention masks, which are the caller's to give; the decoder is causal.

Legend: B batch, T mel frames, C channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_speech.training.batch_norm import RunningBatchNorm


class FrameCounts:
    """The clips' own mel frames in the forward pass under way.

    ``generate`` calls the postnet outside a forward pass: nothing is padded there, and nothing may be left over.
    """

    def __init__(self, reduction_factor: int) -> None:
        self.reduction_factor = reduction_factor
        self.frames: Tensor | None = None  # (B,)

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: read the decoder's mask (B, T / reduction_factor)."""
        mask = kwargs.get("decoder_attention_mask")
        self.frames = None if mask is None else mask.sum(-1) * self.reduction_factor

    def forget(self, *_: Any) -> None:
        """After the model."""
        self.frames = None


def silence_padding(counts: FrameCounts, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Before a convolution over (B, C, T): zeros behind each clip's end, as a clip alone has them."""
    if counts.frames is None:
        return None
    hidden = args[0]
    behind = torch.arange(hidden.shape[-1], device=hidden.device) >= counts.frames[:, None]  # (B, T)
    return (hidden.masked_fill(behind[:, None], 0),)


def make_padding_exact(model: PreTrainedModel) -> None:
    """Make predictions for a clip the same (to rounding) alone and in any batch, in training mode too.

    The batch norms keep the statistics of their pretraining. The state dict and the saved directory stay those of
    plain transformers. ``decoder_attention_mask`` must come with every batch, as a keyword.

    Args:
        model: SpeechT5 with a speech decoder; changed in place, once.
    """
    counts = FrameCounts(model.config.reduction_factor)
    model.register_forward_pre_hook(counts.read, with_kwargs=True)
    model.register_forward_hook(counts.forget, always_call=True)
    postnet: Any = model.speech_decoder_postnet
    for module in postnet.modules():
        if isinstance(module, nn.Conv1d):
            module.register_forward_pre_hook(partial(silence_padding, counts))
        elif type(module) is nn.BatchNorm1d:
            module.__class__ = RunningBatchNorm
