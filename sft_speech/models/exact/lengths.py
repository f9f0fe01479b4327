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
    """Group norm behind a convolution over the waveform, over each clip's own frames; the same as ``nn.GroupNorm`` on
    each clip alone.

    What the convolution makes has the mean W m and the variance W C W', where W are its weights (kernel by channel), m
    and C the mean and the covariance of the windows of the waveform that it sees. Those are small, and masked in one
    go: nothing loops over clips, waits for the device to learn their lengths or goes through all frames again.
    """

    lengths: ClipLengths
    convolution: nn.Conv1d
    waveform: Tensor | None = None  # (B, 1, S) that the convolution sees

    def read_waveform(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the convolution."""
        self.waveform = args[0]

    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: (B, C, T) frames of the first convolution.

        Returns:
            (B, C, T); what stands behind a clip's end is of no use.
        """
        waveform, self.waveform = self.waveform, None
        if self.lengths.inputs is None or waveform is None:
            return super().forward(input)
        if len(self.lengths.inputs) != len(input):
            raise RuntimeError(f"lengths of another batch: {len(self.lengths.inputs)} for {len(input)} clips")
        # As nn.GroupNorm does: half precision is computed in float32, and given back unless under autocast.
        precise = torch.promote_types(input.dtype, torch.float32)
        kept = precise if torch.is_autocast_enabled(input.device.type) else input.dtype
        scale, shift = (one.to(precise).unsqueeze(-1) for one in self.affine_of(waveform[:, 0], self.lengths.inputs))
        return torch.addcmul(shift, input.to(precise), scale).to(kept)

    def affine_of(self, waveforms: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be done to a clip's channels: times the first, plus the second.

        Args:
            waveforms: (B, S).
            samples: (B,) that are the clip's own.

        Returns:
            (B, C) and (B, C) in float64, where the device has it: a filter's variance is a small difference of large
            sums.
        """
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        wide = torch.float32 if waveforms.device.type == "mps" else torch.float64
        windows = waveforms.to(wide).unfold(-1, kernel, stride)  # (B, T, kernel)
        frames = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
        own = (torch.arange(windows.shape[1], device=windows.device) < frames[:, None]).unsqueeze(-1)  # (B, T, 1)
        frames = frames[:, None, None]
        center = (windows * own).sum(1, keepdim=True) / frames
        windows = (windows - center) * own
        covariance = windows.transpose(1, 2) @ windows / frames  # (B, kernel, kernel)
        filters = self.convolution.weight.to(wide).squeeze(1)  # (C, kernel)
        mean = center.squeeze(1) @ filters.T
        variance = torch.einsum("ck,bkl,cl->bc", filters, covariance, filters)
        if self.convolution.bias is not None:
            mean = mean + self.convolution.bias.to(wide)
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return scale, -mean * scale
        scale = scale * self.weight.to(wide)
        return scale, self.bias.to(wide) - mean * scale


def use_own_frames(layer: nn.Module, lengths: ClipLengths) -> None:
    """Makes the group norm of a first convolution layer, if that is what it has, one of each clip's own frames."""
    norm, convolution = getattr(layer, "layer_norm", None), getattr(layer, "conv", None)
    if isinstance(norm, nn.GroupNorm) and isinstance(convolution, nn.Conv1d):
        if norm.num_groups != norm.num_channels:
            raise NotImplementedError(f"a group norm of {norm.num_groups} groups over {norm.num_channels} channels")
        norm.__class__ = ClipGroupNorm
        vars(norm).update(lengths=lengths, convolution=convolution)  # not as a module of its own: it has one place
        convolution.register_forward_pre_hook(norm.read_waveform)  # type: ignore[arg-type]


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
