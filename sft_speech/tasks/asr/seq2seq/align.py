"""Times of tokens from the attention of the decoder to the positions of the encoder.

The attention of a few heads is sharp and moves along with the speech: see "Word-level timestamps" in the notes to
OpenAI's Whisper, and Radford et al. 2022. The path of the strongest attention is found by dynamic time warping.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import median_filter

SMOOTHED = 7  # positions; `median_filter_width` of Whisper


def alignment_heads(given: Sequence[Sequence[int]] | None, layers: int, heads: int) -> list[tuple[int, int]]:
    """Return (layer, head) of the heads to align by: the given ones, or all in the upper half of the layers.

    Given heads that the decoder lacks are ignored: a distilled model may list those of its teacher.
    """
    if own := [(layer, head) for layer, head in given or () if layer < layers and head < heads]:
        return own
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]


def token_times(attention: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where tokens start and end, in seconds, (N,) each, increasing.

    Args:
        attention: (A, N + 1, T) weights of A heads from the token before the text and its N tokens to the T positions
            of the clip.
        seconds: length of the clip.
    """
    import librosa

    if attention.shape[1] < 2 or attention.shape[2] < 1:
        return np.zeros(max(attention.shape[1] - 1, 0)), np.zeros(max(attention.shape[1] - 1, 0))
    spread = attention.std(1, keepdims=True)
    normal = (attention - attention.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    smooth = median_filter(normal, (1, 1, SMOOTHED), mode="reflect")
    _, path = librosa.sequence.dtw(C=-smooth.mean(0).astype(np.float64))
    tokens, positions = path[::-1].T
    first = positions[np.flatnonzero(np.diff(tokens, prepend=-1))]  # (N + 1,) where the path enters each row
    times = np.minimum(first * (seconds / attention.shape[2]), seconds)
    return times[:-1], times[1:]
