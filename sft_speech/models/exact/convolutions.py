"""The convolutions over a waveform as matrix products, for computation on a CPU.

Frames are rows and channels columns, so that the frames under a kernel are adjacent in memory: a convolution is one
product for the first ``stride`` taps together, and one for each further tap. A clip passes through all layers in pieces
of two seconds, which stay in the processor's cache, and only over its own frames; torch's convolutions pass layer by
layer through the memory of a whole padded batch. The values are the same up to rounding.

Training under autocast uses products as well, of whole batches: they are faster in bfloat16 than torch's convolutions.
Inference under autocast goes clip by clip, as in float32.

Legend: B batch, S samples, T frames, C channels, K taps of a kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sft_speech.audio.units import conv_frames
from sft_speech.models.exact.lengths import ClipLengths
from sft_speech.models.exact.norms import ClipNormConvolution

PIECE = 100  # frames of the encoder computed together, two seconds
# In bfloat16 oneDNN compiles a product for every new number of rows. So the last piece of a clip is padded to a
# multiple of so many frames.
GRAIN = 25


def with_matrix_products(encoder: nn.Module, lengths: ClipLengths) -> nn.Module:
    """Return a feature encoder with the same layers that uses matrix products where possible: see `MatrixEncoder`.

    Args:
        encoder: a model's ``feature_extractor``; returned unchanged if its layers are not those of wav2vec 2.0.
        lengths: clip lengths of the current forward pass.
    """
    layers = list(getattr(encoder, "conv_layers", []))
    if layers and all(is_plain(layer) for layer in layers) and layers[0].conv.in_channels == 1:
        return MatrixEncoder(encoder, lengths)
    return encoder


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution, an optional norm of a supported kind, and an activation."""
    convolution, norm = getattr(layer, "conv", None), getattr(layer, "layer_norm", None)
    if not isinstance(convolution, nn.Conv1d) or not hasattr(layer, "activation"):
        return False
    (kernel,), (stride,) = convolution.kernel_size, convolution.stride
    unusual = (convolution.padding, convolution.dilation, convolution.groups) != ((0,), (1,), 1)
    known = norm is None or isinstance(norm, nn.LayerNorm) or isinstance(layer, ClipNormConvolution)
    return not unusual and kernel >= stride and known


class MatrixEncoder(nn.Module):
    """A feature encoder that uses matrix products on a CPU: under autocast, and in float32 frozen or without gradients.

    Otherwise it behaves like the feature encoders of transformers.

    Args:
        old: the feature encoder to replace, whose layers are taken over.
        lengths: clip lengths of the current forward pass.
    """

    def __init__(self, old: Any, lengths: ClipLengths) -> None:
        super().__init__()
        self.conv_layers = old.conv_layers
        self.gradient_checkpointing = old.gradient_checkpointing
        self._requires_grad = old._requires_grad
        self.lengths = lengths
        self.train(old.training)

    def _freeze_parameters(self) -> None:
        """Freeze the layers; called by ``freeze_feature_encoder`` of transformers' models."""
        self.requires_grad_(False)
        self._requires_grad = False

    def forward(self, input_values: Tensor) -> Tensor:
        """Encode (B, S) to (B, C, T)."""
        checkpointed = self.gradient_checkpointing and self.training
        weights = [input_values, *self.parameters()]
        graph = torch.is_grad_enabled() and any(one.requires_grad for one in weights)
        if input_values.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not checkpointed:
            whole = graph or self.training
            precision = torch.get_autocast_dtype("cpu")
            return self._encode_batch(input_values) if whole else self._encode(input_values, precision)
        single = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in weights)
        if not graph and single and not checkpointed:
            return self._encode(input_values)
        hidden = input_values[:, None]
        # Gradient checkpointing needs something to differentiate; otherwise the waveform's gradient is wasted work.
        if checkpointed and self._requires_grad:
            hidden.requires_grad = True
        for layer in self.conv_layers:
            hidden = layer(hidden)
        return hidden

    def _samples(self, input_values: Tensor) -> Tensor:
        """Return the clips' own lengths (B,)."""
        samples = self.lengths.inputs
        if samples is None:
            samples = torch.full((len(input_values),), input_values.shape[1])
        if len(samples) != len(input_values):
            raise RuntimeError(f"lengths of another batch: {len(samples)} for {len(input_values)} clips")
        return samples

    def _encode_batch(self, input_values: Tensor) -> Tensor:
        """Encode (B, S) to (B, C, T) by matrix products in the precision of autocast; differentiable."""
        precision, hidden = torch.get_autocast_dtype("cpu"), input_values[..., None]
        for layer in self.conv_layers:
            if isinstance(layer, ClipNormConvolution):  # the first; its norm goes into its weights
                factor, term = layer.affine_of(input_values, self._samples(input_values))
                if layer.conv.bias is not None:
                    term = term + factor * layer.conv.bias
                weight = (as_matrix(layer.conv) * factor[:, None]).to(precision)  # (B, K, C)
                hidden = torch.baddbmm(term[:, None].to(precision), windows(hidden.to(precision), layer.conv), weight)
            else:
                hidden = windows(hidden.to(precision), layer.conv) @ as_matrix(layer.conv).to(precision)
                hidden = hidden if layer.conv.bias is None else hidden + layer.conv.bias.to(precision)
                if isinstance(norm := getattr(layer, "layer_norm", None), nn.LayerNorm):
                    hidden = norm(hidden)
            hidden = layer.activation(hidden)
        return hidden.transpose(1, 2)

    def _encode(self, input_values: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        """Encode (B, S) to (B, C, T) by matrix products, with zeros after each clip's own frames."""
        samples = self._samples(input_values)
        with torch.no_grad():
            stack = Stack(self.conv_layers, precision)
            shape = (len(input_values), stack.frames(input_values.shape[1]), stack.channels)
            encoded = input_values.new_zeros(shape, dtype=precision)
            affine: Any = [None] * len(input_values)
            if isinstance(first := self.conv_layers[0], ClipNormConvolution):
                affine = zip(*first.affine_of(input_values, samples), strict=True)
            for waveform, own, frames, scaling in zip(input_values, samples.tolist(), encoded, affine, strict=True):
                stack.encode(waveform[:own], frames, scaling)
        return encoded.transpose(1, 2)


class Stack:
    """The layers of an encoder with their weights as matrices (K * C, C) in a precision; cheap to build."""

    def __init__(self, layers: Any, precision: torch.dtype = torch.float32) -> None:
        self.layers, self.precision = list(layers), precision
        self.kernels = [layer.conv.kernel_size[0] for layer in self.layers]
        self.strides = [layer.conv.stride[0] for layer in self.layers]
        self.channels = self.layers[-1].conv.out_channels
        self.grain = 1 if precision == torch.float32 else GRAIN
        self.weights = [as_matrix(layer.conv).contiguous() for layer in self.layers]
        self.step, self.field = 1, 1  # hop and receptive field, in samples
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            self.step, self.field = self.step * stride, (self.field - 1) * stride + kernel

    def frames(self, samples: int) -> int:
        return int(conv_frames(samples, self.kernels, self.strides))

    def encode(self, waveform: Tensor, out: Tensor, scaling: tuple[Tensor, Tensor] | None) -> None:
        """Encode one clip.

        Args:
            waveform: (S,), its own samples.
            out: (T, C) or longer; the clip's own frames are written.
            scaling: scale and shift (C,) of the first layer's channels, in place of its norm.
        """
        weights, biases = list(self.weights), [layer.conv.bias for layer in self.layers]
        if scaling is not None:
            factor, term = (one.float() for one in scaling)
            if biases[0] is not None:
                term = term + factor * biases[0]
            weights[0], biases[0] = weights[0] * factor, term
        weights = [weight.to(self.precision) for weight in weights]
        biases = [None if bias is None else bias.to(self.precision) for bias in biases]
        total = self.frames(len(waveform))
        padded = -(-total // self.grain) * self.grain  # frames
        if padded != total:
            waveform = nn.functional.pad(waveform, (0, (padded - 1) * self.step + self.field - len(waveform)))
        waveform = waveform.to(self.precision)
        for first in range(0, padded, PIECE):
            last = min(first + PIECE, padded)
            hidden = waveform[first * self.step : (last - 1) * self.step + self.field, None]
            for number, layer in enumerate(self.layers):
                hidden = convolved(hidden, weights[number], biases[number], self.kernels[number], self.strides[number])
                if isinstance(norm := getattr(layer, "layer_norm", None), nn.LayerNorm):
                    hidden = norm(hidden)
                hidden = layer.activation(hidden)
            out[first : min(last, total)] = hidden[: total - first]


def as_matrix(convolution: nn.Conv1d) -> Tensor:
    """Return the weight as a matrix (K * C, C')."""
    return convolution.weight.permute(2, 1, 0).flatten(0, 1)


def windows(hidden: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Return what is under the kernel of a convolution without padding, (B, T', K * C) of (B, T, C)."""
    (kernel,), (stride,) = convolution.kernel_size, convolution.stride
    batch, length, channels = hidden.shape
    frames = (length - kernel) // stride + 1
    if channels == 1:
        return hidden[..., 0].unfold(1, kernel, stride).contiguous()
    parts = []
    for first in range(0, kernel, stride):  # copies of whole blocks are faster than those of overlapping windows
        block = hidden[:, first : first + frames * stride]
        block = nn.functional.pad(block, (0, 0, 0, frames * stride - block.shape[1]))
        taps = min(stride, kernel - first)
        parts.append(block.reshape(batch, frames, stride * channels)[..., : taps * channels])
    return torch.cat(parts, -1)


def convolved(hidden: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int) -> Tensor:
    """Convolve (T, C) to (T', C') without padding.

    Args:
        weight: (K * C, C').
    """
    frames = (len(hidden) - kernel) // stride + 1
    channels = hidden.shape[1]
    if channels == 1:  # the waveform: its windows are too narrow for a product per tap
        windows, rest = hidden[:, 0].unfold(0, kernel, stride), kernel
    else:
        windows, rest = hidden[: frames * stride].view(frames, stride * channels), stride
    head = weight[: rest * channels]
    made = windows @ head if bias is None else torch.addmm(bias, windows, head)
    for tap in range(rest, kernel):
        made.addmm_(hidden[tap::stride][:frames], weight[tap * channels : (tap + 1) * channels])
    return made
