"""Seconds, samples and frames: the only module that converts one into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np


@overload
def samples_of(seconds: float, rate: int) -> int: ...
@overload
def samples_of(seconds: np.ndarray, rate: int) -> np.ndarray: ...
def samples_of(seconds, rate):
    """Convert seconds to samples, rounded to the nearest; takes a number or an array."""
    samples = np.rint(np.asarray(seconds, np.float64) * rate).astype(np.int64)
    return samples if samples.ndim else int(samples)


@overload
def seconds_of(samples: int, rate: int) -> float: ...
@overload
def seconds_of(samples: np.ndarray, rate: int) -> np.ndarray: ...
def seconds_of(samples, rate):
    """Convert samples to seconds; takes a number or an array."""
    return samples / rate


@overload
def conv_frames(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int: ...
@overload
def conv_frames(samples: np.ndarray, kernels: Sequence[int], strides: Sequence[int]) -> np.ndarray: ...
def conv_frames(samples, kernels, strides):
    """Return the number of frames that a stack of unpadded convolutions makes from samples.

    Exact for the feature encoder of wav2vec 2.0 (arXiv:2006.11477).

    Args:
        samples: a number or an array.
        kernels: width of each layer, in steps of its input.
        strides: step of each layer, in steps of its input.

    Returns:
        a number or an array, as given; 0 for a clip shorter than the receptive field.
    """
    frames = np.asarray(samples, np.int64)
    for kernel, stride in zip(kernels, strides, strict=True):
        frames = np.maximum((frames - kernel) // stride + 1, 0)
    return frames if frames.ndim else int(frames)
