"""Recordings as users give them: files, bytes, arrays, decoded audio, rows of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sft_speech.audio import read as read_audio
from sft_speech.audio.channels import missing, one_channel
from sft_speech.audio.codecs import float_samples
from sft_speech.audio.read import AudioError, probe, read
from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

_DO = "give a path, bytes, (array, rate), {'array', 'sampling_rate'}, or a row of a dataset with 'audio'"


class DecodedAudio(Protocol):
    """Decoded audio of datasets 4 and later: an ``AudioDecoder`` of torchcodec."""

    def get_all_samples(self) -> Any:
        """Return ``data`` (C, S), a tensor of C channels, and ``sample_rate``."""


Array = np.ndarray | Sequence[Any]  # a tensor too, anything that numpy converts
# A path; the bytes of a file; an array and its rate; decoded audio; or a mapping: {"array", "sampling_rate"},
# {"raw", "sampling_rate"}, {"path", "bytes"}, or a row of a dataset, whose "audio" is any of these.
Audio = str | Path | bytes | tuple[Array, int] | DecodedAudio | Mapping[str, Any]


@dataclass(frozen=True)
class Recording:
    """A recording, not decoded yet unless it was given as samples.

    Args:
        audio: what :func:`sft_speech.audio.read.read` takes; a float32 waveform (S,) of S samples at the model's rate;
            or the error why it cannot be read.
        seconds: its length.
        start: offset in seconds if it is a segment of its file.
        name: its path; "" if it was given in memory.
        channel: the channel to take of several, counted from 0; None for all.
    """

    audio: read_audio.Audio | np.ndarray | AudioError
    seconds: float
    start: float | None = None
    name: str = ""
    channel: int | None = None

    def waveform(self, rate: int) -> np.ndarray:
        """Return float32 samples (S,) at ``rate``, which must be the rate of an array.

        Raises:
            AudioError: it cannot be read.
        """
        if isinstance(self.audio, AudioError):
            raise self.audio
        if isinstance(self.audio, np.ndarray):
            return self.audio
        return read(self.audio, rate, self.start, self.seconds if self.start is not None else None, self.channel)

    def samples(self, rate: int, start: int, stop: int | None) -> np.ndarray:
        """Return the samples [start, stop) of :meth:`waveform` without reading the others; None reads to its end.

        Raises:
            AudioError: they cannot be read.
        """
        if isinstance(self.audio, AudioError | np.ndarray) or (start == 0 and stop is None):
            return self.waveform(rate)[start:stop]
        rest = None if self.start is None else self.seconds - start / rate
        seconds = rest if stop is None else (stop - start) / rate
        return read(self.audio, rate, (self.start or 0.0) + start / rate, seconds, self.channel)


def is_one(audio: Audio | Iterable[Audio]) -> bool:
    """Return whether this is one recording, rather than an iterable of recordings."""
    if isinstance(audio, tuple):
        return len(audio) == 2 and isinstance(audio[1], int | float | np.number)
    return isinstance(audio, str | Path | bytes | Mapping) or hasattr(audio, "__array__") or not _iterable(audio)


def _iterable(given: object) -> bool:
    return hasattr(given, "__iter__") and not hasattr(given, "get_all_samples")


def undecoded(audios: Iterable[Audio]) -> Iterable[Audio]:
    """Return a dataset with its column "audio" encoded, so that it is read as files are; anything else unchanged."""
    dataset: Any = audios
    feature: Any = (getattr(dataset, "features", None) or {}).get("audio")
    return dataset.cast_column("audio", replace(feature, decode=False)) if getattr(feature, "decode", False) else audios


def recording_of(audio: Any, rate: int) -> Recording:
    """Return a recording and its length. Files are only probed; samples are resampled to the rate of the model.

    Args:
        audio: see :data:`Audio`.
        rate: samples per second of the model.

    Raises:
        UserError: it is not one of the kinds of :data:`Audio`.
    """
    start = seconds = channel = None
    if isinstance(audio, Mapping) and "audio" in audio:
        start, seconds, channel = (audio.get(key) for key in ("start", "seconds", "channel"))
        audio = audio["audio"]
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    name = str(path) if isinstance(path, str | Path) else ""
    samples = _samples_of(audio)
    try:
        if samples is not None:
            array = mono(samples, rate, channel)
            return Recording(array, len(array) / rate, name=name, channel=channel)
        if start is not None and seconds is not None:
            return Recording(audio, seconds, start, name, channel)
        header = probe(audio)
        if channel is not None and channel >= header.channels:
            raise missing(channel, header.channels)
        if header.note:
            logger.warning("%s: %s", name or "a recording", header.note)
        return Recording(audio, header.seconds, start, name, channel)
    except AudioError as error:
        return Recording(error, 0.0, name=name, channel=channel)


def _samples_of(audio: Any) -> tuple[Any, int] | None:
    """Return samples and their rate; None for a file or its bytes.

    Raises:
        UserError: it is neither, or its rate is missing.
    """
    if hasattr(audio, "get_all_samples"):
        decoded = audio.get_all_samples()
        return decoded.data, decoded.sample_rate
    if isinstance(audio, str | Path | bytes):
        return None
    if isinstance(audio, tuple) and is_one(audio):
        return audio
    if not isinstance(audio, Mapping):
        why = "its sampling rate is unknown" if hasattr(audio, "__len__") else "it is not audio"
        raise UserError(f"{type(audio).__name__} as audio", why, _DO)
    array = next((audio[key] for key in ("array", "raw") if audio.get(key) is not None), None)
    if array is None and ("path" in audio or "bytes" in audio):
        return None
    if array is None or not audio.get("sampling_rate"):
        why = "it holds no audio" if array is None else "its sampling_rate is missing"
        raise UserError(f"a mapping with the keys {', '.join(map(str, audio)) or '(none)'}", why, _DO)
    return array, audio["sampling_rate"]


def mono(audio: tuple[Any, int], rate: int, channel: int | None = None) -> np.ndarray:
    """Return an array, tensor or list of samples with its rate as a mono float32 waveform (S,) at ``rate``.

    Raises:
        AudioError: there are no samples, or NaN or infinite ones.
    """
    import soxr

    given, own_rate = audio
    try:
        samples = float_samples(np.asarray(given.detach().cpu() if hasattr(given, "detach") else given))
    except ValueError as error:  # rows of different lengths
        raise AudioError("unreadable", f"no waveform: {error}") from error
    if samples.size == 0 or own_rate <= 0:
        raise AudioError("empty", f"an array of shape {samples.shape} at {own_rate} Hz holds no audio")
    waveform = one_channel(samples if samples.ndim == 2 else samples[:, None], channel)
    if not np.isfinite(waveform).all():
        raise AudioError("not finite", "the array holds NaN or infinite samples")
    return waveform if own_rate == rate else soxr.resample(waveform, own_rate, rate)
