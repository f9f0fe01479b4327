"""File formats: their suffixes, the error for a clip that cannot be used, and decoding by torchcodec (FFmpeg).

libsndfile reads WAV, FLAC, MP3, OGG, Opus, AIFF, AU, W64 and CAF (:mod:`~sft_speech.audio.read`); torchcodec, where
installed, is the fallback for the rest: M4A, WebM, WMA and video.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.audio.units import samples_of

if TYPE_CHECKING:
    from torchcodec.decoders import AudioDecoder

# libsndfile reads those in the first line; the others need FFmpeg.
AUDIO_SUFFIXES = frozenset(
    [
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".w64", ".rf64", ".caf"),
        *(".m4a", ".aac", ".webm", ".mka", ".wma", ".amr"),
    ]
)
VIDEO_SUFFIXES = frozenset([".mp4", ".mkv"])


def is_audio(name: str, suffixes: frozenset[str] = AUDIO_SUFFIXES) -> bool:
    """Return whether a file's name has an audio suffix and isn't hidden (macOS leaves ``._a.wav`` on other disks)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


class AudioError(Exception):
    """A clip that cannot be used.

    Attributes:
        reason: category in the corpus report: "missing file", "unreadable", "truncated", "empty" or "not finite".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # loader workers send it to the main process


class NotForLibsndfile(Exception):
    """A file that libsndfile cannot read, or not completely; torchcodec may be able to."""


def wav_bytes(samples: np.ndarray, rate: int | None) -> bytes:
    """Return a waveform as a WAV file of 32-bit floats; the same samples always give the same bytes.

    Args:
        samples: as :func:`float_samples` takes them.
        rate: samples per second.

    Raises:
        AudioError: the array is not a waveform, or the rate is missing.
    """
    from scipy.io import wavfile

    if not isinstance(rate, int | np.integer) or not 0 < rate < 1 << 31:
        raise AudioError("unreadable", f"samples without a rate ({rate})")
    encoded = io.BytesIO()
    wavfile.write(encoded, int(rate), float_samples(samples))  # soundfile would write the time into the file
    return encoded.getvalue()


def float_samples(samples: np.ndarray) -> np.ndarray:
    """Return a waveform (S,) or (S, C) as float32, full scale at 1.

    Args:
        samples: (S,), or (S, C) or (C, S), where channels are the shorter axis. Integers have full scale at the limits
            of their type; 64-bit ones, Python's default, are taken for 16-bit samples.

    Raises:
        AudioError: the array is not a waveform.
    """
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise AudioError("unreadable", f"not a waveform: an array of {samples.dtype} of shape {samples.shape}")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.dtype.kind != "f":
        bits = 16 if samples.dtype.itemsize == 8 else 8 * samples.dtype.itemsize
        half = 1 << (bits - 1)
        samples = (samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0)) / half
        if np.abs(samples).max(initial=0) > 1:
            raise AudioError("unreadable", "integers of more than 16 bits: scale them to floats in [-1, 1]")
    return samples.astype(np.float32)


def _open(encoded: str | bytes, why: NotForLibsndfile) -> AudioDecoder:
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: torchcodec is installed, FFmpeg isn't
        raise AudioError(
            "unreadable", f"{why} (torchcodec with FFmpeg reads more formats; it is not installed)"
        ) from error
    try:
        return AudioDecoder(encoded)
    except (RuntimeError, ValueError) as error:
        raise AudioError("unreadable", f"{why}; FFmpeg cannot read it either") from error


def probe(encoded: str | bytes, why: NotForLibsndfile) -> tuple[int, int, int]:
    """Return the samples per channel, the rate and the number of channels given by the header.

    Raises:
        AudioError: unreadable, or empty.
    """
    metadata = _open(encoded, why).metadata
    if not metadata.duration_seconds or not metadata.sample_rate:
        raise AudioError("empty", "its header gives no length")
    samples = samples_of(metadata.duration_seconds, metadata.sample_rate)
    return samples, metadata.sample_rate, metadata.num_channels or 1


def decode(
    encoded: str | bytes, start: float | None, seconds: float | None, why: NotForLibsndfile
) -> tuple[np.ndarray, int]:
    """Decode a file, or the segment of it that begins at ``start`` and lasts ``seconds``.

    Returns:
        float32 samples (S, C) and their rate.

    Raises:
        AudioError: unreadable, or truncated.
    """
    decoder = _open(encoded, why)
    try:
        stop = None if seconds is None else (start or 0.0) + seconds
        decoded = decoder.get_samples_played_in_range(start or 0.0, stop)
    except (RuntimeError, ValueError, IndexError) as error:
        raise AudioError("truncated", "cut or damaged (FFmpeg)") from error
    return decoded.data.numpy().T, decoded.sample_rate
