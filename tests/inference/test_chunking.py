from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.audio.units import conv_frames
from sft_speech.inference.chunking import FrameGrid, Window, cut_windows, join

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def base(samples: int) -> int:
    return conv_frames(samples, KERNELS, STRIDES)


def log_mel(samples: int) -> int:
    """wav2vec2-bert: frames of 25 ms every 10 ms, two of them side by side."""
    return (1 + (samples - 400) // 160) // 2 if samples >= 400 else 0


def odd(samples: int) -> int:
    return conv_frames(samples, (7, 5), (7, 3))


GRIDS = [(base, 320, 400), (log_mel, 320, 560), (odd, 21, 35)]


@pytest.mark.parametrize(("frames", "stride", "width"), GRIDS)
def test_grid_is_measured(frames, stride, width):
    assert FrameGrid.measure(frames) == FrameGrid(stride, width)


def test_uneven_frames_are_refused():
    with pytest.raises(ValueError, match="no whole number"):
        FrameGrid.measure(lambda samples: samples * 3 // 1000)


def test_windows_are_literal():
    grid = FrameGrid(320, 400)
    # 100 frames of 320 samples; windows of 40 frames of which 5 on each side are context: 3 x 30 + 10.
    assert cut_windows(100 * 320 + 80, grid, base, 40 * 320) == [
        Window(0, 40, 0, 40 * 320 + 80),
        Window(30, 70, 30 * 320, 70 * 320 + 80),
        Window(60, 100, 60 * 320, 100 * 320 + 80),
    ]


def test_what_is_short_enough_stays_whole():
    assert cut_windows(40 * 320, FrameGrid(320, 400), base, 40 * 320) == [Window(0, 39, 0, 40 * 320)]
    assert cut_windows(100, FrameGrid(320, 400), base, 40 * 320) == [Window(0, 0, 0, 100)]


@settings(deadline=None)  # a busy machine is no error
@given(st.integers(1, 2_000_000), st.integers(40, 600), st.sampled_from(GRIDS))
def test_windows_cover_the_recording_with_context_and_make_their_frames(samples, window_frames, family):
    frames, stride, width = family
    grid = FrameGrid(stride, width)
    windows = cut_windows(samples, grid, frames, window_frames * stride)
    assert windows[0].start == 0
    assert windows[-1].stop == samples
    assert windows[-1].last == frames(samples)
    for window in windows:
        assert window.start == window.first * stride
        assert frames(window.stop - window.start) == window.last - window.first
        assert len(windows) == 1 or window.last - window.first <= window_frames
    context = int(window_frames / 8)
    for left, right in pairwise(windows):
        assert left.last - right.first >= 2 * context or right is windows[-1]
        assert right.first < left.last


@settings(deadline=None)  # a busy machine is no error
@given(st.integers(50, 3000), st.integers(40, 200), st.randoms())
def test_joined_windows_are_the_recording_where_they_agree(total, window_frames, random):
    truth = np.array([random.randrange(3) for _ in range(total)], np.int32)
    grid = FrameGrid(320, 400)
    windows = cut_windows(total * 320 + 80, grid, base, window_frames * 320)
    parts = [truth[window.first : window.last] for window in windows]
    assert np.array_equal(join(parts, windows), truth)


def test_windows_wrong_at_their_borders_do_no_harm():
    """Without context a window mishears: that must never reach the result."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 1000).astype(np.int32)
    windows = cut_windows(1000 * 320 + 80, FrameGrid(320, 400), base, 160 * 320)
    parts = []
    for window in windows:
        part = truth[window.first : window.last].copy()
        if window.first > 0:
            part[:9] = 99
        if window.last < 1000:
            part[-9:] = 99
        parts.append(part)
    assert len(windows) > 5
    assert np.array_equal(join(parts, windows), truth)


def test_a_seam_is_not_laid_through_a_character_that_moved_by_a_frame():
    """One window puts the "a" (7) into frame 19, the other one into frame 20: in the middle of their overlap."""
    windows = [Window(0, 30, 0, 0), Window(10, 40, 0, 0)]
    left, right = np.zeros(30, np.int32), np.zeros(30, np.int32)
    left[19], right[20 - 10] = 7, 7
    assert (join([left, right], windows) == 7).sum() == 1
    left[19], left[20], right[20 - 10], right[19 - 10] = 0, 7, 0, 7  # the other way round it would be lost
    assert (join([left, right], windows) == 7).sum() == 1


def test_the_last_window_may_be_shorter_or_longer_than_announced():
    windows = [Window(0, 30, 0, 0), Window(10, 40, 0, 0)]
    truth = np.arange(43)
    for last in (5, 12, 28, 33):
        assert np.array_equal(join([truth[:30], truth[10 : 10 + last]], windows), truth[: 10 + last])
