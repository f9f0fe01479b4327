"""Seconds, samples and frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.audio.units import conv_frames, samples_of, seconds_of

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # wav2vec 2.0


def test_samples_and_seconds():
    assert samples_of(0.1, 16_000) == 1600
    assert isinstance(samples_of(0.1, 16_000), int)
    assert samples_of(np.array([0.0, 1.0 / 3]), 48_000).tolist() == [0, 16_000]
    assert seconds_of(8000, 16_000) == 0.5


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (100, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)]
)
def test_frames_of_wav2vec2(samples, frames):
    assert conv_frames(samples, KERNELS, STRIDES) == frames
    assert conv_frames(np.array([samples, 16_000]), KERNELS, STRIDES).tolist() == [frames, 49]


@settings(deadline=None)  # torch is imported by the first example
@given(st.integers(0, 500_000))
def test_frames_are_those_of_the_convolutions(samples):
    import torch

    clip = torch.zeros(1, 1, samples, device="meta")
    try:
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            clip = torch.nn.functional.conv1d(clip, torch.zeros(1, 1, kernel, device="meta"), stride=stride)
        frames = clip.shape[-1]
    except RuntimeError:  # shorter than a kernel
        frames = 0
    assert conv_frames(samples, KERNELS, STRIDES) == frames
