from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.audio.units import conv_frames
from sft_speech.inference.chunking import Chunk, FrameGrid, cut_chunks, join

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


def test_chunks_are_literal():
    grid = FrameGrid(320, 400)
    # 100 frames of 320 samples; chunks of 40 frames of which 5 on each side are context: 3 x 30 + 10.
    assert cut_chunks(100 * 320 + 80, grid, base, 40 * 320) == [
        Chunk(0, 40, 0, 40 * 320 + 80),
        Chunk(30, 70, 30 * 320, 70 * 320 + 80),
        Chunk(60, 100, 60 * 320, 100 * 320 + 80),
    ]


def test_what_is_short_enough_stays_whole():
    assert cut_chunks(40 * 320, FrameGrid(320, 400), base, 40 * 320) == [Chunk(0, 39, 0, 40 * 320)]
    assert cut_chunks(100, FrameGrid(320, 400), base, 40 * 320) == [Chunk(0, 0, 0, 100)]


@settings(deadline=None)  # a busy machine is no error
@given(st.integers(1, 2_000_000), st.integers(40, 600), st.sampled_from(GRIDS))
def test_chunks_cover_the_recording_with_context_and_make_their_frames(samples, chunk_frames, family):
    frames, stride, width = family
    grid = FrameGrid(stride, width)
    chunks = cut_chunks(samples, grid, frames, chunk_frames * stride)
    assert chunks[0].start == 0
    assert chunks[-1].stop == samples
    assert chunks[-1].last == frames(samples)
    for chunk in chunks:
        assert chunk.start == chunk.first * stride
        assert frames(chunk.stop - chunk.start) == chunk.last - chunk.first
        assert len(chunks) == 1 or chunk.last - chunk.first <= chunk_frames
    context = int(chunk_frames / 8)
    for left, right in pairwise(chunks):
        assert left.last - right.first >= 2 * context or right is chunks[-1]
        assert right.first < left.last


@settings(deadline=None)  # a busy machine is no error
@given(st.integers(50, 3000), st.integers(40, 200), st.randoms())
def test_joined_chunks_are_the_recording_where_they_agree(total, chunk_frames, random):
    truth = np.array([random.randrange(3) for _ in range(total)], np.int32)
    grid = FrameGrid(320, 400)
    chunks = cut_chunks(total * 320 + 80, grid, base, chunk_frames * 320)
    parts = [truth[chunk.first : chunk.last] for chunk in chunks]
    assert np.array_equal(join(parts, chunks), truth)


def test_chunks_wrong_at_their_borders_do_no_harm():
    """Without context a chunk mishears: that must never reach the result."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 1000).astype(np.int32)
    chunks = cut_chunks(1000 * 320 + 80, FrameGrid(320, 400), base, 160 * 320)
    parts = []
    for chunk in chunks:
        part = truth[chunk.first : chunk.last].copy()
        if chunk.first > 0:
            part[:9] = 99
        if chunk.last < 1000:
            part[-9:] = 99
        parts.append(part)
    assert len(chunks) > 5
    assert np.array_equal(join(parts, chunks), truth)


def test_a_seam_is_not_laid_through_a_character_that_moved_by_a_frame():
    """One chunk puts the "a" (7) into frame 19, the other one into frame 20: in the middle of their overlap."""
    chunks = [Chunk(0, 30, 0, 0), Chunk(10, 40, 0, 0)]
    left, right = np.zeros(30, np.int32), np.zeros(30, np.int32)
    left[19], right[20 - 10] = 7, 7
    assert (join([left, right], chunks) == 7).sum() == 1
    left[19], left[20], right[20 - 10], right[19 - 10] = 0, 7, 0, 7  # the other way round it would be lost
    assert (join([left, right], chunks) == 7).sum() == 1


def test_the_last_chunk_may_be_shorter_or_longer_than_announced():
    chunks = [Chunk(0, 30, 0, 0), Chunk(10, 40, 0, 0)]
    truth = np.arange(43)
    for last in (5, 12, 28, 33):
        assert np.array_equal(join([truth[:30], truth[10 : 10 + last]], chunks), truth[: 10 + last])
