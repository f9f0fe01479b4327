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


class ClipConv1d(nn.Conv1d):
    """A convolution over time that sees zeros after each clip's end, as it would for a clip alone.

    Args:
        old: the convolution to replace.
        lengths: clip lengths of the current forward pass.
        before: strided convolutions between the encoder and this one, which shorten the clips.
    """

    def __init__(self, old: nn.Conv1d, lengths: ClipLengths, before: tuple[nn.Conv1d, ...] = ()) -> None:
        super().__init__(
            old.in_channels,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            old.groups,
            old.bias is not None,
            old.padding_mode,
            device="meta",
        )
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
