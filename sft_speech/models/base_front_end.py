"""What the front ends of all families have in common.

Legend: B batch, S samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig


class FrontEnd(ABC):
    """The feature extractor of a checkpoint together with the frame arithmetic of its model.

    Args:
        config: configuration of the model.
        extractor: feature extractor of the checkpoint.

    Attributes:
        rate: samples per second.
        receptive_field: the fewest samples from which the encoder makes a frame.
        time_axis: the axis of the frames in the input that SpecAugment masks; None: it masks no input.
        max_samples: longer clips are cut to this; None if clips are never cut.
    """

    max_samples: int | None = None
    time_axis: int | None = None

    def __init__(self, config: PreTrainedConfig, extractor: Any) -> None:
        self.config: Any = config  # each family has its own attributes
        self.extractor = extractor
        self.rate = int(extractor.sampling_rate)
        self.receptive_field = self._receptive_field()

    @overload
    def frames(self, samples: int) -> int: ...
    @overload
    def frames(self, samples: np.ndarray) -> np.ndarray: ...
    def frames(self, samples: Any) -> Any:
        """Return the number of frames that the model makes of a clip, adapters included: 0 if the clip is too short.

        Args:
            samples: number of samples, or an array of such numbers.
        """
        return self.encoder_frames(samples)

    @abstractmethod
    def encoder_frames(self, samples: Any) -> Any:
        """Return the number of frames before adapters, for a number of samples or an array of such numbers."""

    def masked_frames(self, samples: int) -> int:
        """Return the number of frames of a clip that SpecAugment draws its masks for."""
        return int(self.encoder_frames(samples))

    @abstractmethod
    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the model's inputs: every clip is normalized on its own samples, as if it were alone.

        A clip shorter than the receptive field is extended by silence that counts as part of it, so that the model
        makes one frame of it (`frames` still returns 0).

        Args:
            waveforms: B clips (S,), float, at the model's rate.
        """

    @abstractmethod
    def _receptive_field(self) -> int: ...

    def _extracted(self, waveforms: list[np.ndarray], **options: Any) -> dict[str, Tensor]:
        """Return the extractor's output for clips, with floats in float32 and integers in int64."""
        clips = [lengthened(np.asarray(clip, np.float32), self.receptive_field) for clip in waveforms]
        made = self.extractor(clips, sampling_rate=self.rate, return_tensors="pt", **options)
        return {name: value.float() if value.is_floating_point() else value.long() for name, value in made.items()}


def receptive_field(kernels: Sequence[int], strides: Sequence[int], frames: int = 1) -> int:
    """Return the fewest samples of which consecutive convolutions make a frame, or so many frames."""
    samples = frames
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def lengthened(clip: np.ndarray, samples: int) -> np.ndarray:
    """Return a clip (S,), extended by silence to at least ``samples`` samples."""
    return clip if len(clip) >= samples else np.pad(clip, (0, samples - len(clip)))
