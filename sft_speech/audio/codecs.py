"""File formats: their suffixes, the error for a clip that cannot be used, and decoding by torchcodec (FFmpeg).

libsndfile reads WAV, FLAC, MP3, OGG, Opus, AIFF, AU, W64 and CAF (:mod:`~sft_speech.audio.read`); torchcodec, where
installed, is the fallback for the rest: M4A, WebM, WMA and video.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.audio.units import samples_of
from sft_speech.machine import installer

if TYPE_CHECKING:
    from torchcodec import AudioSamples
    from torchcodec.decoders import AudioDecoder

# libsndfile reads those in the first two lines; the others need FFmpeg.
AUDIO_SUFFIXES = frozenset(
    [
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".w64", ".rf64", ".caf"),
        *(".mp2", ".snd", ".sph", ".nist", ".voc", ".bwf", ".wave"),
        *(".m4a", ".m4b", ".aac", ".webm", ".weba", ".mka", ".wma", ".amr", ".3gp", ".3ga", ".spx", ".ac3"),
    ]
)
VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mkv", ".mov", ".avi", ".flv", ".mpg", ".mpeg", ".mts", ".wmv", ".3g2"])


def is_audio(name: str, suffixes: frozenset[str] = AUDIO_SUFFIXES) -> bool:
    """Return whether a file's name has an audio suffix and isn't hidden (macOS leaves ``._a.wav`` on other disks)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


class AudioError(Exception):
    """A clip that cannot be used.

    Attributes:
        reason: category in the corpus report: "missing file", "not audio", "unreadable", "truncated", "empty" or
            "not finite".
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


INSTALL = f"{installer()} 'sft_speech[codecs]', and FFmpeg's shared libraries: apt (or brew) install ffmpeg"
_BLOCK_SECONDS = 60.0  # decoded at a time to learn a length

# Containers whose headers know the length: MP4, Matroska, WMA. That of AAC, AMR, MPEG is guessed from their size.
_TELLS_LENGTH = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|\x30\x26\xb2\x75\x8e\x66\xcf\x11", re.DOTALL)


def _open(encoded: str | bytes, why: NotForLibsndfile) -> AudioDecoder:
    """Return a decoder, which prints nothing: torchcodec sets FFmpeg's log level to quiet."""
    try:
        from torchcodec.decoders import AudioDecoder
    except ImportError as error:
        raise AudioError("unreadable", f"{why}; FFmpeg may read it: {INSTALL}") from error
    except (RuntimeError, OSError) as error:  # torchcodec is installed
        do = "apt (or brew) install ffmpeg; sft-speech doctor checks it"
        raise AudioError("unreadable", f"{why}; torchcodec finds no shared libraries of FFmpeg: {do}") from error
    try:
        return AudioDecoder(encoded)
    except (RuntimeError, ValueError) as error:
        if "audio stream" in str(error):
            raise AudioError("not audio", "a video without sound") from error
        if _TELLS_LENGTH.match(_bytes(encoded, 16)) and b"ftyp" in (whole := _bytes(encoded)) and b"moov" not in whole:
            why_cut = "its index (moov), which is written last, is missing: the recording or the copy was interrupted"
            raise AudioError("truncated", why_cut) from error
        raise AudioError("unreadable", f"{why}; FFmpeg cannot read it either") from error


def probe(encoded: str | bytes, why: NotForLibsndfile) -> tuple[int, int, int]:
    """Return the samples per channel, the rate and the number of channels.

    The header gives them where it knows the length; else the file is decoded.

    Raises:
        AudioError: unreadable, truncated or empty.
    """
    decoder = _open(encoded, why)
    seconds, rate = decoder.metadata.duration_seconds, decoder.metadata.sample_rate
    if not seconds or not rate or not _TELLS_LENGTH.match(_bytes(encoded, 16)):
        seconds, rate = _decoded_seconds(decoder)
    samples = samples_of(seconds, rate)
    if samples == 0:
        raise AudioError("empty", "it holds no samples")
    return samples, rate, decoder.metadata.num_channels or 1


def _bytes(encoded: str | bytes, count: int = -1) -> bytes:
    """Return the first bytes of a file; -1: all of them."""
    if isinstance(encoded, bytes):
        return encoded if count < 0 else encoded[:count]
    with open(encoded, "rb") as file:
        return file.read(count)


def _decoded_seconds(decoder: AudioDecoder) -> tuple[float, int]:
    """Return the seconds and the rate of a file that is decoded block by block."""
    seconds, rate, start = 0.0, 1, 0.0
    while (block := _played(decoder, start, start + _BLOCK_SECONDS)) is not None and block.data.shape[1]:
        rate = block.sample_rate
        seconds += block.data.shape[1] / rate
        start += _BLOCK_SECONDS
    return seconds, rate


def _played(decoder: AudioDecoder, start: float, stop: float | None) -> AudioSamples | None:
    """Return what is played between two times; None if the file ends before.

    Raises:
        AudioError: damaged.
    """
    try:
        # Broadcasts begin at any time, WMA at 0.064 s; that of the header differs from that of the first sample.
        header = decoder.metadata.begin_stream_seconds or 0.0
        begin = decoder.get_samples_played_in_range(0.0, header + 0.5).pts_seconds if start or stop else 0.0
        return decoder.get_samples_played_in_range(begin + start, None if stop is None else begin + stop)
    except (RuntimeError, ValueError, IndexError) as error:
        if start > 0 and "No audio frames" in str(error):
            return None
        raise AudioError("truncated", "cut or damaged (FFmpeg)") from error


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
    first = start or 0.0
    stop = None if seconds is None else first + seconds
    seekless = _bytes(encoded, 4) == b"OggS"  # FFmpeg seeks in FLAC in Ogg to other samples
    found = _played(decoder, 0.0 if seekless else first, stop)
    samples, rate = (np.zeros((0, 1), np.float32), 1) if found is None else (found.data.numpy().T, found.sample_rate)
    if seekless:
        samples = samples[samples_of(first, rate) :]
    promised = seconds
    if promised is None and _TELLS_LENGTH.match(_bytes(encoded, 16)):
        promised = (decoder.metadata.duration_seconds or first) - first
    # Lengths in headers include what the encoder adds.
    if len(samples) and promised and len(samples) / rate < promised - max(0.25, promised / 50):
        raise AudioError("truncated", f"{len(samples) / rate:.2f} of {promised:.2f} s could be read")
    return samples, rate
