"""Encoders of Moonshine that see each clip as if it were alone.

In plain transformers a clip depends on its neighbors in two ways. The group norm after the first convolution takes its
statistics over the padding too. And the attention mask of the frames has one or two frames too many: it is the mask of
the samples at every 384th of them, while a frame spans 895 samples; in Moonshine Streaming it includes frames that see
nothing but the last block of a clip and the padding. Encoder and decoder attend to those frames in a batch, but a clip
alone does not have them.

Legend: B batch, S samples, T frames, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder
from transformers.models.moonshine_streaming.modeling_moonshine_streaming import (
    MoonshineStreamingDecoder,
    MoonshineStreamingEncoderEmbedder,
)

from sft_speech.models.exact.lengths import ClipLengths, replace
from sft_speech.models.exact.norms import ClipGroupNorm


class ClipEncoder(MoonshineEncoder):
    """The encoder of Moonshine over each clip's own frames.

    Args:
        old: the encoder to replace, whose modules are taken over.
        lengths: clip lengths of the current forward pass; its frames are those of the first convolution.
    """

    def __init__(self, old: Any, lengths: ClipLengths) -> None:
        with torch.device("meta"):
            super().__init__(old.config)
        for name, module in old.named_children():
            setattr(self, name, module)
        self.lengths = lengths
        self.train(old.training)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Encode waveforms (B, S) to hidden states (B, T, H) and their mask (B, T)."""
        self.lengths.frames = None
        if attention_mask is not None:
            frames = attention_mask.sum(-1)
            for convolution in (self.conv1, self.conv2, self.conv3):
                (kernel,), (stride,) = convolution.kernel_size, convolution.stride
                frames = torch.div(frames - kernel, stride, rounding_mode="floor") + 1
                if convolution is self.conv1:
                    self.lengths.frames = frames
            # transformers takes every 384th value of the mask
            step = self.conv1.stride[0] * self.conv2.stride[0] * self.conv3.stride[0]
            own = torch.arange(input_values.shape[1], device=frames.device) < frames[:, None] * step
            attention_mask = own.to(attention_mask.dtype)
        return super().forward(input_values, attention_mask=attention_mask, **kwargs)


class ClipEmbedder(MoonshineStreamingEncoderEmbedder):
    """The convolutions of Moonshine Streaming, with a mask of each clip's own frames.

    Args:
        old: the embedder to replace, whose modules are taken over.
        config: configuration of the encoder.
    """

    def __init__(self, old: Any, config: Any) -> None:
        with torch.device("meta"):
            super().__init__(config)
        for name, module in old.named_children():
            setattr(self, name, module)
        self.train(old.training)

    def forward(self, input_values: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, H) of waveforms (B, S), and their mask (B, T); S is a multiple of the block."""
        hidden, mask = super().forward(input_values, padding_mask)
        if padding_mask is not None:
            frames = -(-padding_mask.sum(-1) // self.frame_len)  # of a clip alone, its last block padded
            for convolution in (self.conv1, self.conv2):
                frames = torch.div(frames - 1, convolution.stride[0], rounding_mode="floor") + 1
            mask = torch.arange(hidden.shape[1], device=frames.device) < frames[:, None]
        return hidden, mask


class CarefulDecoder(MoonshineStreamingDecoder):
    """The decoder of Moonshine Streaming, which leaves the encoder's states as they are.

    That of transformers adds its positions to them in place, once more in each step.

    Args:
        old: the decoder to replace, whose modules are taken over.
    """

    def __init__(self, old: Any) -> None:
        with torch.device("meta"):
            super().__init__(old.config)
        for name, module in old.named_children():
            setattr(self, name, module)
        self.train(old.training)

    def forward(self, *args: Any, encoder_hidden_states: Tensor, **kwargs: Any) -> Any:
        """Decode tokens (B, L), given the states (B, T, H) of the encoder."""
        return super().forward(*args, encoder_hidden_states=encoder_hidden_states.clone(), **kwargs)


def close_stem(base: Any, lengths: ClipLengths) -> None:
    """Make the encoder of a Moonshine see each clip as if it were alone."""
    own = ClipLengths()
    replace(base.encoder, "groupnorm", ClipGroupNorm(base.encoder.groupnorm, own))
    base.encoder = ClipEncoder(base.encoder, own)


def close_blocks(base: Any, lengths: ClipLengths) -> None:
    """Make the encoder of a Moonshine Streaming see each clip as if it were alone."""
    base.encoder.embedder = ClipEmbedder(base.encoder.embedder, base.encoder.config)
    base.decoder = CarefulDecoder(base.decoder)
