"""Padding that can't be heard: the logits of a clip don't depend on the clips beside it in the batch.

In plain transformers they do, in four places:

1. The group norm of the first convolution (``feat_extract_norm="group"``) takes its statistics over the padding too.
2. Convolutions over time inside the encoder see whatever the layers before them (a bias, a norm, the spread of the
   convolution before) put behind a clip's end, where a clip alone sees zeros: the positional stack of data2vec-audio,
   the depthwise convolutions of conformers, the strided adapters of wav2vec2 and wav2vec2-bert.
3. Batch norms in training mode mix the clips of a batch.
4. Without an attention mask, attention sees the padding. That one is the caller's: the mask is always to be given.

`make_padding_exact` mends the first three in a built model, once. It adds no parameter and no buffer, so the state dict
and the saved directory stay those of plain transformers; hooks and swapped classes live inside the module, so that
DDP, gradient checkpointing, autocast and deepcopy work as before.

Legend: B batch, S samples, T frames, C channels.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_speech.training.batch_norm import RunningBatchNorm

logger = logging.getLogger(__name__)

# Families whose logits were seen to be the same alone and in any batch (tests/asr/test_padding.py).
EXACT_FAMILIES = frozenset(
    {
        "wav2vec2",
        "hubert",
        "wavlm",
        "data2vec-audio",
        "wav2vec2-bert",
        "wav2vec2-conformer",
        "unispeech",
        "unispeech-sat",
    }
)


class ClipLengths:
    """The clips' own lengths in the forward pass under way, told by the model to the layers that need them.

    It outlives the forward pass because gradient checkpointing runs layers again during the backward pass.
    """

    def __init__(self) -> None:
        self.inputs: Tensor | None = None  # (B,) samples, or log-mel frames, of the model's input
        self.frames: Tensor | None = None  # (B,) frames of the encoder

    def read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the base model: read the mask (B, S) that came with the batch."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.inputs = None if mask is None else mask.sum(-1)

    def read_frames(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the encoder: read the mask (B, T) that the model made of it."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.frames = None if mask is None else mask.sum(-1)


class ClipGroupNorm(nn.GroupNorm):
    """Group norm over each clip's own frames; the same as ``nn.GroupNorm`` on each clip alone."""

    lengths: ClipLengths
    kernel: int
    stride: int

    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: (B, C, T) frames of the first convolution.

        Returns:
            (B, C, T); what stands behind a clip's end is of no use.
        """
        if self.lengths.inputs is None:
            return super().forward(input)
        own = (torch.div(self.lengths.inputs - self.kernel, self.stride, rounding_mode="floor") + 1).tolist()
        if len(own) != len(input) or max(own) > input.shape[-1]:
            raise RuntimeError(f"lengths of another batch: {own} frames in an input of shape {tuple(input.shape)}")
        if min(own) == input.shape[-1]:
            return super().forward(input)
        # As nn.GroupNorm does: half precision is computed in float32, and given back unless under autocast.
        precise = torch.promote_types(input.dtype, torch.float32)
        kept = precise if torch.is_autocast_enabled(input.device.type) else input.dtype
        groups, repeats = self.num_groups, self.num_channels // self.num_groups
        # unbind, because its backward pass is one stack; indexing would build a whole batch of zeros for every clip.
        pairs = zip(input.unbind(0), own, strict=True)
        clips = [clip[:, :frames].to(precise).reshape(groups, -1) for clip, frames in pairs]
        moments = [torch.var_mean(clip, dim=-1, correction=0) for clip in clips]
        scale = torch.stack([variance for variance, _ in moments]).add(self.eps).rsqrt()  # (B, groups)
        shift = -torch.stack([mean for _, mean in moments]) * scale
        scale, shift = scale.repeat_interleave(repeats, 1), shift.repeat_interleave(repeats, 1)  # (B, C)
        if self.affine:
            weight, bias = self.weight.to(precise), self.bias.to(precise)
            scale, shift = scale * weight, shift * weight + bias
        return torch.addcmul(shift.unsqueeze(-1), input.to(precise), scale.unsqueeze(-1)).to(kept)


def silence_padding(
    before: tuple[nn.Conv1d, ...],
    lengths: ClipLengths,
    module: nn.Module,
    args: tuple[Any, ...],
) -> tuple[Any, ...] | None:
    """Before a convolution over time: zeros behind each clip's end, as a clip alone has them.

    Args:
        before: the strided convolutions between the encoder and this one (they shorten the clips).
        lengths: of the forward pass under way.
        module: the convolution.
        args: its input (B, C, T).
    """
    own = lengths.frames
    if own is None:
        return None
    hidden = args[0]
    for convolution in before:
        (kernel,), (stride,), padding = (
            convolution.kernel_size,
            convolution.stride,
            convolution.padding[0],
        )
        own = torch.div(own + 2 * int(padding) - kernel, stride, rounding_mode="floor") + 1
    behind = torch.arange(hidden.shape[-1], device=hidden.device) >= own[:, None]  # (B, T)
    return hidden.masked_fill(behind[:, None], 0), *args[1:]


def make_padding_exact(model: PreTrainedModel) -> None:
    """Make the logits of a clip the same (to rounding) alone and in any batch.

    Call it once, on a model with a CTC head. The attention mask must then come with every batch, for group-norm
    checkpoints too.

    Args:
        model: a transformers CTC model; changed in place.
    """
    if model.config.model_type not in EXACT_FAMILIES:
        logger.warning(
            "%s isn't known to ignore padding: transcripts may change a little with the clips beside them in a batch",
            model.config.model_type,
        )
    base: Any = model.base_model
    lengths = ClipLengths()
    base.register_forward_pre_hook(lengths.read_input, with_kwargs=True)
    base.encoder.register_forward_pre_hook(lengths.read_frames, with_kwargs=True)
    for layer in getattr(getattr(base, "feature_extractor", None), "conv_layers", [])[:1]:
        norm: Any = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            norm.__class__ = ClipGroupNorm
            vars(norm).update(lengths=lengths, kernel=layer.conv.kernel_size[0], stride=layer.conv.stride[0])
    for module in base.encoder.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = RunningBatchNorm
        elif is_padded(module):
            module.register_forward_pre_hook(partial(silence_padding, (), lengths))
    strided: tuple[nn.Conv1d, ...] = ()
    for layer in getattr(getattr(base, "adapter", None), "layers", []):
        convolutions = [module for module in layer.modules() if is_padded(module)]
        for convolution in convolutions:
            convolution.register_forward_pre_hook(partial(silence_padding, strided, lengths))
        strided = (
            *strided,
            convolutions[0],
        )  # those of a layer stand side by side and shorten alike


def is_padded(module: nn.Module) -> bool:
    """Whether a module is a convolution over time that pads by itself: the ones that look past a clip's end.

    Causal convolutions (wav2vec2-bert's) never do, and are padded outside.
    """
    return isinstance(module, nn.Conv1d) and module.padding not in {(0,), "valid"}
