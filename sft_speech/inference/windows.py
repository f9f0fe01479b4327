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
PAUSE_SECONDS = 0.3  # energy is averaged over it
PAUSE_RATIO = 4.0  # of energies: 6 dB


@dataclass(frozen=True)
class Window:
    """Samples [start, stop) of a recording."""

    start: int
    stop: int


def cut_windows(recording: Recording, rate: int, longest_seconds: float) -> Iterator[Window]:
    """Cut a recording into windows that do not overlap, each at the longest pause of its second half.

    Only recordings longer than ``longest_seconds`` are read for that, a window at a time. Where reading fails, the rest
    of the recording is one window, whose reading fails again and reports the error.
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
    """Return the middle of the longest pause between two samples of a waveform (S,), S samples.

    In a pause, the energy is at most :data:`PAUSE_RATIO` times that of the quietest 0.3 seconds. Of equally long pauses
    the last is taken.

    Args:
        earliest, latest: the samples between which the pause is searched for.
    """
    frame = samples_of(FRAME_SECONDS, rate)
    first, frames = earliest // frame, (latest - earliest) // frame
    width = min(frames, round(PAUSE_SECONDS / FRAME_SECONDS))
    if width < 1:
        return latest
    energy = np.square(waveform[first * frame : (first + frames) * frame]).reshape(frames, frame).mean(-1)
    # Sums of few terms: a running sum would lose what is quiet after what is loud.
    mean = np.lib.stride_tricks.sliding_window_view(energy, width).mean(-1)
    quiet = np.flatnonzero(mean <= PAUSE_RATIO * mean.min())
    runs = np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)
    longest = max(reversed(runs), key=len)
    middle = (longest[0] + longest[-1] + width) / 2
    return first * frame + int(middle * frame)
