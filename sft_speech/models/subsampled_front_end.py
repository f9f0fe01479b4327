"""Front ends of conformers over log-mel frames, which they subsample: Parakeet, Lasr, Granite Speech.

Legend: B batch, S samples, T frames, F features of a frame.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_speech.audio.units import conv_frames
from sft_speech.models.base_front_end import FrontEnd, receptive_field


class SubsampledFrontEnd(FrontEnd):
    """Log-mel frames for an encoder that subsamples them: "input_features" (B, T, F) and "attention_mask" (B, T).

    The feature extractor gets one clip at a time: in a batch, its windows and deltas at the end of a clip would reach
    into the padding, and its sums would be rounded differently.
    """

    def __init__(self, config: Any, extractor: Any) -> None:
        self.encoder = config.encoder_config
        self.hop = int(extractor.hop_length)
        super().__init__(config, extractor)

    @abstractmethod
    def input_frames(self, samples: int) -> int:
        """Return the number of frames that the feature extractor makes of a clip."""

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        alone = []
        for clip in waveforms:
            made = self._extracted([clip])["input_features"][0]
            alone.append(made[: self.input_frames(max(len(clip), self.receptive_field))])
        own = torch.tensor([len(one) for one in alone])
        features = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
        return {"input_features": features, "attention_mask": (torch.arange(int(own.max())) < own[:, None]).long()}


class NormalizedLogMelFrontEnd(SubsampledFrontEnd):
    """Frames for Parakeet: of mean 0 and variance 1 in each clip, which takes at least two of them."""

    def input_frames(self, samples: Any) -> Any:
        return samples // self.hop

    def encoder_frames(self, samples: Any) -> Any:
        kernel, stride = self.encoder.subsampling_conv_kernel_size, self.encoder.subsampling_conv_stride
        frames = self.input_frames(samples)
        for _ in range(self.encoder.subsampling_factor.bit_length() - 1):
            frames = conv_frames(frames + (kernel - 1) // 2 * 2, [kernel], [stride])
        return frames * (samples >= self.receptive_field)

    def _receptive_field(self) -> int:
        return 2 * self.hop


class UnpaddedLogMelFrontEnd(SubsampledFrontEnd):
    """Frames for Lasr, whose windows and convolutions all stay within the clip."""

    def input_frames(self, samples: Any) -> Any:
        return conv_frames(samples, [self.extractor.win_length], [self.hop])

    def encoder_frames(self, samples: Any) -> Any:
        return conv_frames(samples, *self._convolutions())

    def _receptive_field(self) -> int:
        return receptive_field(*self._convolutions())

    def _convolutions(self) -> tuple[list[int], list[int]]:
        """Return kernels and strides: of the windows, and of the two convolutions over their frames."""
        kernel, stride = self.encoder.subsampling_conv_kernel_size, self.encoder.subsampling_conv_stride
        return [self.extractor.win_length, kernel, kernel], [self.hop, stride, stride]


class StackedLogMelFrontEnd(SubsampledFrontEnd):
    """Frames for Granite Speech, side by side with their deltas, in pairs (the last one filled with silence)."""

    def input_frames(self, samples: Any) -> Any:
        return -(-(samples // self.hop) // self.extractor.frame_stacking)

    def encoder_frames(self, samples: Any) -> Any:
        return self.input_frames(samples) // 2 ** len(self.encoder.subsample_layers)

    def _receptive_field(self) -> int:
        pairs = 2 ** len(self.encoder.subsample_layers)
        return ((pairs - 1) * self.extractor.frame_stacking + 1) * self.hop
