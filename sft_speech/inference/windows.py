"""Windows: recordings of any length are cut into windows at pauses, for models that take whole sentences.

A model that writes text token by token cannot be joined frame by frame, as :mod:`sft_speech.inference.chunking` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.audio.units import samples_of
from sft_speech.inference.clips import Recording

SHORTEST_SHARE = 0.5  # of a full window: pauses are looked for after it
FRAME_SECONDS = 0.02
PAUSE_SECONDS = 0.3  # energy is averaged over it, so that the longest pause wins


@dataclass(frozen=True)
class Window:
    """Samples [start, stop) of a recording."""

    start: int
    stop: int


def cut_windows(recording: Recording, rate: int, longest_seconds: float) -> Iterator[Window]:
    """Cut a recording into windows that do not overlap, each at the pause that is nearest to silence.

    Only recordings longer than ``longest_seconds`` are read for that, a window at a time. A recording that cannot be
    read further ends with a window that cannot be read either.
    """
    total, longest = samples_of(recording.seconds, rate), samples_of(longest_seconds, rate)
    start = 0
    while total - start > longest:
        try:
            waveform = recording.samples(rate, start, start + longest)
        except AudioError:
            break
        if len(waveform) < longest:  # shorter than its header says
            total = start + len(waveform)
            break
        rest = total - start
        latest = min(longest, rest - rate)  # a second at least remains
        earliest = min(max(int(SHORTEST_SHARE * longest), rest - longest if rest < 1.5 * longest else 0), latest)
        stop = start + quietest(waveform, rate, earliest, latest)
        yield Window(start, stop)
        start = stop
    yield Window(start, total)


def quietest(waveform: np.ndarray, rate: int, earliest: int, latest: int) -> int:
    """Return the sample between two others around which a waveform (S,) of S samples has least energy.

    Among equally quiet ones it is the last.
    """
    frame = samples_of(FRAME_SECONDS, rate)
    first, frames = earliest // frame, (latest - earliest) // frame
    if frames < 2:
        return latest
    energy = np.square(waveform[first * frame : (first + frames) * frame]).reshape(frames, frame).mean(-1)
    width = min(frames, round(PAUSE_SECONDS / FRAME_SECONDS))
    # sums of few terms: a running sum would lose what is quiet after what is loud
    mean = np.lib.stride_tricks.sliding_window_view(energy, width).mean(-1)
    best = len(mean) - 1 - int(np.argmin(mean[::-1]))
    return (first + best) * frame + width * frame // 2
