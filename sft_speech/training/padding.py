"""Parts of padding that can't be heard, for models on waveforms and on spectrograms alike.

Legend: B batch, S samples, T frames, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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


def use_own_frames(layer: nn.Module, lengths: ClipLengths) -> None:
    """Makes the group norm of a first convolution layer, if that is what it has, one of each clip's own frames."""
    norm, convolution = getattr(layer, "layer_norm", None), getattr(layer, "conv", None)
    if isinstance(norm, nn.GroupNorm) and isinstance(convolution, nn.Conv1d):
        norm.__class__ = ClipGroupNorm
        vars(norm).update(lengths=lengths, kernel=convolution.kernel_size[0], stride=convolution.stride[0])


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


def is_padded(module: nn.Module) -> bool:
    """Whether a module is a convolution over time that pads by itself: the ones that look past a clip's end.

    Causal convolutions (wav2vec2-bert's) never do, and are padded outside.
    """
    return isinstance(module, nn.Conv1d) and module.padding not in {(0,), "valid"}
