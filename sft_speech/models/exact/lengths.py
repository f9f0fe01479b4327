"""Parts that padding-exact modules share: the clips' own lengths, and the replacement of modules.

Legend: B batch, S samples, T frames, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import transfer_parametrizations_and_params


class ClipLengths:
    """The clips' own lengths in the current forward pass, written by hooks and read by the padding-exact modules.

    Hooks read them, because they are arguments of the model and of its encoder: replacing either module would change
    the class that transformers saves and loads. They outlive the forward pass because gradient checkpointing runs
    layers again during the backward pass.

    Attributes:
        inputs: (B,) samples, or log-mel frames, of the model's input; None without an attention mask.
        frames: (B,) frames of the encoder.
    """

    def __init__(self) -> None:
        self.inputs: Tensor | None = None
        self.frames: Tensor | None = None

    def read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the attention mask (B, S) of a batch; a hook before the base model."""
        self.inputs = _summed(args, kwargs)

    def read_frames(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the mask (B, T) that the model derived from it; a hook before the encoder."""
        self.frames = _summed(args, kwargs)


def _summed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    return None if mask is None else mask.sum(-1)


def replace(root: nn.Module, name: str, new: nn.Module) -> None:
    """Replace a module with another one, which takes over its parameters and buffers under the same names.

    Args:
        root: an ancestor of the module.
        name: name of the module to replace, as in ``named_modules``.
        new: the replacement, built on the meta device or from the old module's children.
    """
    old = root.get_submodule(name)
    for key, parameter in old.named_parameters(recurse=False):
        setattr(new, key, parameter)
    for key, buffer in old.named_buffers(recurse=False):
        setattr(new, key, buffer)
    if hasattr(old, "parametrizations"):  # weight normalization
        for key in old.parametrizations:  # type: ignore[union-attr]
            delattr(new, str(key))
        transfer_parametrizations_and_params(old, new)
    root.set_submodule(name, new.train(old.training))


class PreciseConv1d(nn.Conv1d):
    """A convolution over time that a CPU computes in float32 if it is narrow, also under autocast or in half precision.

    On CPUs with AMX, torch 2.14 is wrong in bfloat16, by the size of the values, with 4 to 12 channels to a group and a
    multiple of 8 taps. Under autocast the result stays float32, as that of a norm does.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = input.dtype in (torch.bfloat16, torch.float16)
        autocast = torch.is_autocast_enabled("cpu")
        if input.device.type != "cpu" or not (half or autocast) or not is_narrow(self):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            made = super()._conv_forward(input.float(), weight.float(), None if bias is None else bias.float())
        return made if autocast else made.to(input.dtype)


def is_narrow(convolution: nn.Conv1d) -> bool:
    """Return whether a group has few input channels, but more than one: then bfloat16 may be wrong on a CPU.

    The positional convolutions of the published wav2vec 2.0 models, with 48 or 64 channels to a group, are right.
    """
    return 1 < convolution.in_channels // convolution.groups < 16


def use_precise_convolutions(model: nn.Module) -> None:
    """Replace a model's narrow convolutions over time by :class:`PreciseConv1d`."""
    for name, module in list(model.named_modules()):
        if name and isinstance(module, nn.Conv1d) and not isinstance(module, PreciseConv1d) and is_narrow(module):
            replace(model, name, PreciseConv1d(**arguments_of(module), device="meta"))


def arguments_of(convolution: nn.Conv1d) -> dict[str, Any]:
    """Return the arguments that make a convolution over time of the same shape."""
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    return {name: getattr(convolution, name) for name in names.split()} | {"bias": convolution.bias is not None}


class ClipConv1d(PreciseConv1d):
    """A convolution over time that sees zeros after each clip's end, as it would for a clip alone.

    Args:
        old: the convolution to replace.
        lengths: clip lengths of the current forward pass.
        before: strided convolutions between the encoder and this one, which shorten the clips.
    """

    def __init__(self, old: nn.Conv1d, lengths: ClipLengths, before: tuple[nn.Conv1d, ...] = ()) -> None:
        super().__init__(**arguments_of(old), device="meta")
        self.lengths = lengths
        self.before = [(one.kernel_size[0], one.stride[0], int(one.padding[0])) for one in before]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, T)."""
        own = self.lengths.frames
        if own is None:
            return super().forward(input)
        for kernel, stride, padding in self.before:
            own = torch.div(own + 2 * padding - kernel, stride, rounding_mode="floor") + 1
        behind = torch.arange(input.shape[-1], device=input.device) >= own[:, None]  # (B, T)
        return super().forward(input.masked_fill(behind[:, None], 0))


def looks_ahead(module: nn.Module) -> bool:
    """Return whether a module is a convolution over time that pads by itself, and so looks past a clip's end.

    Causal convolutions (those of wav2vec2-bert) are padded by their caller and never do.
    """
    return isinstance(module, nn.Conv1d) and module.padding not in {(0,), "valid"}
