"""Chunking: recordings of any length are cut into overlapping chunks, and the frames of the chunks are joined.

Every chunk starts at a multiple of the encoder's stride, so that its frame k is exactly the recording's frame
``first + k``: times don't drift. On either side a chunk has context of ``CONTEXT_SHARE`` of its length. Frames are
joined before anything is collapsed, inside the overlap, in the middle of the longest agreement of both chunks: no
character is cut, doubled or lost at a seam as long as they agree anywhere.

Each chunk is normalized like an utterance, as in training, by the feature extractor and by the group norm of the first
convolution. Statistics over a whole recording would make a quiet speaker in it too quiet; chunks are long enough
(``CHUNK_SECONDS``) to have the statistics of an utterance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Longer than any utterance of the usual corpora (LibriSpeech: 35 s), so that those are never cut.
CHUNK_SECONDS = 40.0
CONTEXT_SHARE = 1 / 8  # of the chunk on each side: 5 s of 40


@dataclass(frozen=True)
class Chunk:
    """Frames [first, last) of a recording, and the samples [start, stop) that make them."""

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class FrameGrid:
    """How the encoder's frames are placed over samples.

    Args:
        stride: samples from one frame to the next.
        width: samples that make one frame.
    """

    stride: int
    width: int

    @classmethod
    def measure(cls, frames: Callable[[int], int]) -> FrameGrid:
        """Measure the grid by counting frames, which works with any front end.

        Raises:
            ValueError: the frames are not equally spaced.
        """
        # A multiple of every stride that a product of small numbers can be.
        many = 2**10 * 3**3 * 5**3 * 7
        more = frames(2 * many) - frames(many)
        if more <= 0 or many % more:
            raise ValueError(f"{many} samples make {more} frames: no whole number of samples to a frame")
        low, high = 0, many
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if frames(middle) >= 1 else (middle, high)
        return cls(many // more, high)


def cut_chunks(samples: int, grid: FrameGrid, frames: Callable[[int], int], chunk_samples: int) -> list[Chunk]:
    """Cut a recording into chunks of nearly equal length, at most ``chunk_samples``; into one if that suffices.

    Args:
        samples: number of samples of the recording.
        frames: returns the number of frames for a number of samples.
    """
    total = frames(samples)
    longest = max(8, chunk_samples // grid.stride)
    if samples <= chunk_samples or total <= longest:
        return [Chunk(0, total, 0, samples)]
    context = max(1, int(longest * CONTEXT_SHARE))
    count = -(-(total - 2 * context) // (longest - 2 * context))
    core = -(-(total - 2 * context) // count)
    chunks = []
    for number in range(count):
        first = number * core
        last = min(total, first + core + 2 * context)
        final = last == total
        stop = samples if final else (last - 1) * grid.stride + grid.width
        chunks.append(Chunk(first, last, first * grid.stride, stop))
        if final:
            break
    return chunks


def join(parts: Sequence[np.ndarray], chunks: Sequence[Chunk], by: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Join the frames of a recording's chunks.

    Args:
        parts: token ids (T,) of each chunk, T frames, or any values of each frame (T, ...); the last one may be off by
            a few frames if the file's header was wrong.
        by: token ids of each chunk, if the parts are something else.

    Returns:
        token ids (T,) of the recording, or (T, ...).
    """
    by = parts if by is None else by
    joined = []
    start = chunks[0].first
    for number, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
        if number + 1 < len(chunks):
            following = chunks[number + 1]
            overlap = chunk.first + len(part) - following.first
            left, right = by[number][len(part) - overlap :], by[number + 1][:overlap]
            stop = following.first + _seam(left[: len(right)], right)
        else:
            stop = chunk.first + len(part)
        joined.append(part[start - chunk.first : stop - chunk.first])
        start = stop
    return np.concatenate(joined)


def _seam(left: np.ndarray, right: np.ndarray) -> int:
    """Return the place in an overlap to switch chunks: the middle of an agreement, with context on both sides."""
    length = len(right)
    differing = np.flatnonzero(left != right)
    places = np.arange(length // 4, length - length // 4 + 1)
    # The distance of a change before frame p from the nearest disagreement: the shorter agreement of its two sides.
    borders = np.concatenate([[-1], differing, [length]])
    after = np.searchsorted(borders, places)
    distance = np.minimum(places - borders[after - 1] - 1, borders[after] - places)
    best = places[distance == distance.max()]
    return int(best[np.argmin(np.abs(best - length / 2))])
