"""Norms that keep the clips of a batch apart.

Legend: B batch, S samples, T frames, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from sft_speech.models.exact.lengths import ClipLengths, replace


class RunningBatchNorm(nn.BatchNorm1d):
    """Batch norm with the statistics of pretraining, in training mode too: clips do not see their neighbors."""

    def __init__(self, old: nn.BatchNorm1d) -> None:
        super().__init__(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats, device="meta")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, T)."""
        return functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


def use_running_statistics(root: nn.Module, only_frozen: bool = False) -> None:
    """Replace all batch norms of a module, or those whose weights are not trained."""
    for name, module in list(root.named_modules()):
        if type(module) is nn.BatchNorm1d and not (only_frozen and any(p.requires_grad for p in module.parameters())):
            replace(root, name, RunningBatchNorm(module))


class ClipNormConvolution(GradientCheckpointingLayer):
    """A convolution over the waveform, a group norm over each clip's own frames, and an activation.

    The output for a clip is what the transformers layer with ``nn.GroupNorm`` gives for the clip alone.

    The output of the convolution has the mean W m and the variance W C W', where W are its weights (channel by kernel),
    m and C the mean and the covariance of the windows of the waveform. Those are small and masked in one step: nothing
    loops over clips, waits for the device to report their lengths, or passes over all frames again.

    Args:
        old: the layer to replace, whose submodules are taken over.
        lengths: clip lengths of the current forward pass.
    """

    conv: nn.Conv1d
    layer_norm: nn.GroupNorm
    activation: nn.Module

    def __init__(self, old: nn.Module, lengths: ClipLengths) -> None:
        super().__init__()
        for name, module in old.named_children():
            setattr(self, name, module)
        self.lengths = lengths

    def forward(self, waveforms: Tensor) -> Tensor:
        """Compute the frames (B, C, T) of waveforms (B, 1, S); values past a clip's end are meaningless."""
        frames = self.conv(waveforms)
        if self.lengths.inputs is None:
            return self.activation(self.layer_norm(frames))
        if len(self.lengths.inputs) != len(frames):
            raise RuntimeError(f"lengths of another batch: {len(self.lengths.inputs)} for {len(frames)} clips")
        # As in nn.GroupNorm: half precision is computed in float32, and float32 is returned only under autocast.
        precise = torch.promote_types(frames.dtype, torch.float32)
        kept = precise if torch.is_autocast_enabled(frames.device.type) else frames.dtype
        scale, shift = (one.to(precise).unsqueeze(-1) for one in self.affine_of(waveforms[:, 0], self.lengths.inputs))
        return self.activation(torch.addcmul(shift, frames.to(precise), scale).to(kept))

    def affine_of(self, waveforms: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift of each clip's channels.

        Args:
            waveforms: (B, S).
            samples: (B,) own samples of each clip.

        Returns:
            (B, C) and (B, C), in float64 if the device has it: the variance of a filter is a small difference of large
            sums.
        """
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        wide = torch.float32 if waveforms.device.type == "mps" else torch.float64
        windows = waveforms.to(wide).unfold(-1, kernel, stride)  # (B, T, kernel)
        frames = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
        own = (torch.arange(windows.shape[1], device=windows.device) < frames[:, None]).unsqueeze(-1)  # (B, T, 1)
        frames = frames[:, None, None]
        center = (windows * own).sum(1, keepdim=True) / frames
        windows = (windows - center) * own
        covariance = windows.transpose(1, 2) @ windows / frames  # (B, kernel, kernel)
        filters = self.conv.weight.to(wide).squeeze(1)  # (C, kernel)
        mean = center.squeeze(1) @ filters.T
        variance = torch.einsum("ck,bkl,cl->bc", filters, covariance, filters)
        if self.conv.bias is not None:
            mean = mean + self.conv.bias.to(wide)
        scale = (variance + self.layer_norm.eps).rsqrt()
        if not self.layer_norm.affine:
            return scale, -mean * scale
        scale = scale * self.layer_norm.weight.to(wide)
        return scale, self.layer_norm.bias.to(wide) - mean * scale


class ClipGroupNorm(nn.GroupNorm):
    """A group norm over each clip's own frames, as for the clip alone.

    Args:
        old: the norm to replace.
        lengths: clip lengths of the current forward pass; its frames are those that enter the norm.
    """

    def __init__(self, old: nn.GroupNorm, lengths: ClipLengths) -> None:
        super().__init__(old.num_groups, old.num_channels, old.eps, old.affine, device="meta")
        self.lengths = lengths

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, T); values past a clip's end are meaningless."""
        frames = self.lengths.frames
        if frames is None:
            return super().forward(input)
        # As in nn.GroupNorm: half precision is computed in float32, and float32 is returned only under autocast.
        precise = input.to(torch.promote_types(input.dtype, torch.float32))
        grouped = precise.unflatten(1, (self.num_groups, -1))  # (B, groups, channels, T)
        own = (torch.arange(input.shape[-1], device=input.device) < frames[:, None])[:, None, None]
        values = frames[:, None, None, None] * grouped.shape[2]
        centered = grouped - (grouped * own).sum((2, 3), keepdim=True) / values
        variance = (centered * own).square().sum((2, 3), keepdim=True) / values
        normed = (centered * (variance + self.eps).rsqrt()).flatten(1, 2)
        if self.affine:
            normed = torch.addcmul(self.bias[:, None], normed, self.weight[:, None])
        return normed.to(precise.dtype if torch.is_autocast_enabled(input.device.type) else input.dtype)


def use_own_frames(encoder: nn.Module, lengths: ClipLengths) -> None:
    """Replace the first layer of a feature encoder if it has a group norm.

    Args:
        encoder: feature encoder with its layers in ``conv_layers``.
        lengths: clip lengths of the current forward pass.

    Raises:
        NotImplementedError: the group norm has several channels per group.
    """
    layer = encoder.get_submodule("conv_layers.0")
    norm = getattr(layer, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm) and not isinstance(layer, ClipNormConvolution):
        if norm.num_groups != norm.num_channels:
            raise NotImplementedError(f"a group norm of {norm.num_groups} groups over {norm.num_channels} channels")
        replace(encoder, "conv_layers.0", ClipNormConvolution(layer, lengths))
