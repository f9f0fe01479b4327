"""The convolutions over a waveform as products of matrices, for what is computed on a CPU without a graph.

Frames stand in rows, channels in columns, so that the frames a kernel sees lie side by side in memory: a convolution is
one product for the first ``stride`` taps, taken together, and one for each tap behind them. A clip goes through all
layers in pieces of two seconds, which stay in the processor's cache, and only over its own frames; torch's own
convolutions go layer after layer through the memory of a whole padded batch. The values are the same to rounding.

Legend: B batch, S samples, T frames, C channels, K taps of a kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sft_speech.audio.units import conv_frames
from sft_speech.models.exact.lengths import ClipGroupNorm, ClipLengths

PIECE = 100  # frames of the encoder computed together, two seconds


def use_matrix_products(encoder: nn.Module, lengths: ClipLengths) -> None:
    """Has the convolutions of a wav2vec2-like model computed so where that is possible: on a CPU, in float32, frozen or
    without gradients. Everywhere else they stay as they are. Call it once; nothing else about the model changes.

    Args:
        encoder: a model's ``feature_extractor``, its layers in ``conv_layers``.
        lengths: of the clips under way.
    """
    layers = list(getattr(encoder, "conv_layers", []))
    if layers and all(is_plain(layer) for layer in layers) and layers[0].conv.in_channels == 1:
        encoder.forward = partial(encode, encoder, lengths)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution, perhaps a norm that is known here, and an activation."""
    convolution, norm = getattr(layer, "conv", None), getattr(layer, "layer_norm", None)
    if not isinstance(convolution, nn.Conv1d) or not hasattr(layer, "activation"):
        return False
    (kernel,), (stride,) = convolution.kernel_size, convolution.stride
    unusual = (convolution.padding, convolution.dilation, convolution.groups) != ((0,), (1,), 1)
    return not unusual and kernel >= stride and (norm is None or isinstance(norm, ClipGroupNorm | nn.LayerNorm))


def encode(encoder: Any, lengths: ClipLengths, input_values: Tensor) -> Tensor:
    """In place of the forward pass of ``encoder``: (B, S) to (B, C, T), zeros behind a clip's own frames."""
    weights = [input_values, *encoder.parameters()]
    graph = torch.is_grad_enabled() and any(one.requires_grad for one in weights)
    single = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in weights)
    if graph or not single or torch.is_autocast_enabled("cpu"):
        return type(encoder).forward(encoder, input_values)
    samples = lengths.inputs
    if samples is None:
        samples = torch.full((len(input_values),), input_values.shape[1])
    if len(samples) != len(input_values):
        raise RuntimeError(f"lengths of another batch: {len(samples)} for {len(input_values)} clips")
    with torch.no_grad():
        stack = Stack(encoder)
        encoded = input_values.new_zeros(len(input_values), int(stack.frames(input_values.shape[1])), stack.channels)
        affine: Any = [None] * len(input_values)
        if isinstance(norm := getattr(encoder.conv_layers[0], "layer_norm", None), ClipGroupNorm):
            affine = zip(*norm.affine_of(input_values, samples), strict=True)
        for waveform, own, frames, scaling in zip(input_values, samples.tolist(), encoded, affine, strict=True):
            stack.encode(waveform[:own], frames, scaling)
    return encoded.transpose(1, 2)


class Stack:
    """The layers of an encoder with their weights as matrices (K * C, C), which takes next to no time to lay out."""

    def __init__(self, encoder: Any) -> None:
        self.layers = list(encoder.conv_layers)
        self.kernels = [layer.conv.kernel_size[0] for layer in self.layers]
        self.strides = [layer.conv.stride[0] for layer in self.layers]
        self.channels = self.layers[-1].conv.out_channels
        self.weights = [layer.conv.weight.permute(2, 1, 0).flatten(0, 1).contiguous() for layer in self.layers]
        self.step, self.field = 1, 1  # samples from one frame to the next, and those that make one
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            self.step, self.field = self.step * stride, (self.field - 1) * stride + kernel

    def frames(self, samples: int) -> int:
        return conv_frames(samples, self.kernels, self.strides)

    def encode(self, waveform: Tensor, out: Tensor, scaling: tuple[Tensor, Tensor] | None) -> None:
        """One clip.

        Args:
            waveform: (S,), its own samples.
            out: (T, C) or longer; its own frames are written.
            scaling: of the first layer's channels (C,): a factor and a term, in place of its norm.
        """
        weights, biases = list(self.weights), [layer.conv.bias for layer in self.layers]
        if scaling is not None:
            factor, term = (one.float() for one in scaling)
            if biases[0] is not None:
                term = term + factor * biases[0]
            weights[0], biases[0] = weights[0] * factor, term
        total = self.frames(len(waveform))
        for first in range(0, total, PIECE):
            last = min(first + PIECE, total)
            hidden = waveform[first * self.step : (last - 1) * self.step + self.field, None]
            for number, layer in enumerate(self.layers):
                hidden = convolved(hidden, weights[number], biases[number], self.kernels[number], self.strides[number])
                if isinstance(norm := getattr(layer, "layer_norm", None), nn.LayerNorm):
                    hidden = norm(hidden)
                hidden = layer.activation(hidden)
            out[first:last] = hidden


def convolved(hidden: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int) -> Tensor:
    """(T, C) to the frames (T', C') of a convolution without padding.

    Args:
        weight: (K * C, C').
    """
    frames = (len(hidden) - kernel) // stride + 1
    channels = hidden.shape[1]
    if channels == 1:  # the waveform: windows are too narrow for a product per tap
        windows, rest = hidden[:, 0].unfold(0, kernel, stride), kernel
    else:
        windows, rest = hidden[: frames * stride].view(frames, stride * channels), stride
    head = weight[: rest * channels]
    made = windows @ head if bias is None else torch.addmm(bias, windows, head)
    for tap in range(rest, kernel):
        made.addmm_(hidden[tap::stride][:frames], weight[tap * channels : (tap + 1) * channels])
    return made
