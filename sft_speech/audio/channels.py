"""Channels of a recording: their names, the choice of one, and their mix.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import numpy as np

from sft_speech.audio.codecs import AudioError

NAMES = ("left", "right")  # of the first two
MIX = "mix"  # option: the mean of all channels, on purpose
_NUMBERS = {"left": 0, "l": 0, "a": 0, "right": 1, "r": 1, "b": 1}
_ALL = frozenset(["", MIX, "mono", "both", "average", "null", "none", "nan"])

# Share of the level of independent channels that is left in their mean: below it, they cancel each other. For two
# channels, their mean is then 10 dB quieter than they are; that of independent ones is 3 dB quieter.
_CANCELLED = 0.2
_ALIKE = 0.5  # correlation of two channels that hold the same voice; in a recording of a call it is near 0
_QUIET_DB = 30.0  # a channel that is quieter than the loudest one by more than this holds nothing of its own


def name_of(channel: int) -> str:
    """Return ``left``, ``right``, or the number counted from 0 of a further channel."""
    return NAMES[channel] if channel < len(NAMES) else str(channel)


def number_of(value: str) -> int | None:
    """Return the number of a channel, counted from 0: of 0, 1, left, right, A, B, ...; None if all are meant.

    Raises:
        ValueError: it names no channel.
    """
    text = value.strip().strip("[]").strip().lower()
    if text in _ALL:
        return None
    if text in _NUMBERS:
        return _NUMBERS[text]
    number = float(text)
    if not 0 <= number < 256 or number != int(number):
        raise ValueError(value)
    return int(number)


def one_channel(samples: np.ndarray, channel: int | None = None) -> np.ndarray:
    """Return a waveform (S,) of samples (S, C).

    Args:
        channel: the one to take, counted from 0. None for their mean; for the loudest one if they cancel each other,
            as when one of them is inverted.

    Raises:
        AudioError: there is no such channel. A recording of one channel has only a left one.
    """
    if channel is not None:
        if channel >= samples.shape[1]:
            raise missing(channel, samples.shape[1])
        return samples[:, channel]
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1, dtype=np.float32)
    powers = _powers(samples)
    if _power(mean) * len(powers) < _CANCELLED * powers.mean():
        return samples[:, int(powers.argmax())]
    return mean


def missing(channel: int, channels: int) -> AudioError:
    """Return the error for a channel that a recording of ``channels`` does not have."""
    has = "one channel" if channels == 1 else f"{channels} channels"
    return AudioError("no such channel", f"channel {name_of(channel)} of a recording of {has}")


def cancel(samples: np.ndarray) -> bool:
    """Return whether the mean of the channels (S, C) is much quieter than they are."""
    powers = _powers(samples)
    return len(powers) > 1 and _power(samples.mean(axis=1, dtype=np.float32)) * len(powers) < _CANCELLED * powers.mean()


def differ(samples: np.ndarray) -> bool:
    """Return whether the channels (S, C) hold different sounds, as of two speakers in a call."""
    powers = _powers(samples)
    heard = np.flatnonzero((powers > 0) & (powers > powers.max() * 10 ** (-_QUIET_DB / 10)))
    if len(heard) < 2:
        return False
    found = np.corrcoef(samples[:, heard].T.astype(np.float64))
    return bool(np.nanmin(np.abs(found)) < _ALIKE)


def _powers(samples: np.ndarray) -> np.ndarray:
    """Return the power of each channel (C,)."""
    return np.array([_power(channel) for channel in samples.T])


def _power(waveform: np.ndarray) -> float:
    return float(np.dot(waveform, waveform)) / max(1, len(waveform))
