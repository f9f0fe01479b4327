"""One clip: its length from the header, and its samples at the model's rate.

soundfile (libsndfile) comes first; what it cannot read goes to torchcodec, see :mod:`~sft_speech.audio.codecs`.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.audio import codecs
from sft_speech.audio.channels import one_channel
from sft_speech.audio.codecs import AudioError, NotForLibsndfile
from sft_speech.audio.sndfile import Sound, size_of, stream
from sft_speech.audio.units import samples_of, seconds_of

__all__ = ["QUIET_SECONDS", "Audio", "AudioError", "Header", "decode", "probe", "quietest", "read", "read_row"]

Audio = str | Path | bytes | Mapping[str, Any]  # a path, the bytes of a file, or a row's {"path", "bytes"}

QUIET_SECONDS = 0.05  # length of the window that :func:`quietest` looks for

_TAIL = 256  # samples decoded at the end of a file to check that it is there
_SILENT_PEAK = 1e-4  # -80 dB of full scale, three steps of 16-bit audio: nothing was recorded
_UNKNOWN_LENGTH = 0x7FFF_0000  # writers to a pipe put the largest number that fits in place of a length
_OGG_PAGE = 65_307  # the longest page of RFC 3533, in bytes
# What libsndfile logs when it opens a file that is shorter than its header says.
_CUT = re.compile(r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")
_MOST_UPSAMPLING = 100  # nobody records at 160 Hz; upsampling from 1 Hz would take gigabytes
_BLOCK = 1 << 14  # samples read at a time in search of the first sound


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Args:
        samples: per channel, at ``rate``.
        rate: samples per second.
        channels: 1 or more.
        silent: no sample of the file is louder than -80 dB of full scale.
        kind: container and coding as libsndfile names them, "WAV PCM_16"; "" if FFmpeg reads the file.
        note: what is wrong with its header, and how it is read in spite of it; "" if nothing is.
    """

    samples: int
    rate: int
    channels: int
    silent: bool = False
    kind: str = field(default="", compare=False)
    note: str = field(default="", compare=False)

    @property
    def seconds(self) -> float:
        return seconds_of(self.samples, self.rate)


# ---- headers ----


def probe(audio: Audio) -> Header:
    """Read the header of a clip without decoding it, and find out whether it is cut or silent.

    The last samples are decoded, because a FLAC that lost its end still declares its full length. That costs a seek
    (0.2 ms; decoding a clip of 12 s costs 5 ms). Only a file that ends in silence is read up to its first sound.

    Raises:
        AudioError: missing, empty, truncated, unreadable, or not finite at its end.
    """
    encoded = _encoded(audio)
    try:
        with Sound(encoded) as file:
            return _header(file, encoded)
    except NotForLibsndfile as error:
        return Header(*codecs.probe(encoded, error))


def _header(file: Sound, encoded: str | bytes) -> Header:
    samples, rate = file.frames, file.samplerate
    if samples <= 0:
        raise AudioError("empty", "it holds no samples")
    _check_container(file, encoded)
    start = max(0, samples - (_slack(file) if file.subtype.startswith("MPEG") else _TAIL))
    tail = file.read(start, samples - start, exact=False)
    if len(tail) == 0:
        raise AudioError("truncated", f"its header promises {seconds_of(samples, rate):.2f} s, the end is missing")
    peak = _peak(tail)
    if not math.isfinite(peak):
        _check_finite(tail)
    silent = peak <= _SILENT_PEAK and _all_silent(file)
    return Header(samples, rate, file.channels, silent, f"{file.format} {file.subtype}", file.repaired)


def _slack(file: Sound) -> int:
    """Return how many samples an intact file may lack: some headers are rounded, and MP3 lengths count packets."""
    quarter = file.samplerate // 4
    return quarter if file.subtype.startswith("MPEG") else min(quarter, file.frames // 50)


def _check_container(file: Sound, encoded: str | bytes) -> None:
    """Check the container: libsndfile silently shortens cut WAV, AIFF, AU, CAF and OGG files, and some MP3.

    Raises:
        AudioError: truncated.
    """
    if file.format == "OGG":
        return _check_last_page(encoded)
    if file.format in ("MP3", "FLAC"):
        return None
    for declared, found in _CUT.findall(file.extra_info):
        lost = file.frames * (int(declared) / max(1, int(found)) - 1)
        if int(declared) < _UNKNOWN_LENGTH and lost > _slack(file):
            seconds, whole = (seconds_of(n, file.samplerate) for n in (file.frames, file.frames + lost))
            raise AudioError("truncated", f"it holds {seconds:.2f} of {whole:.2f} s")
    return None


def _check_last_page(encoded: str | bytes) -> None:
    """Check that an OGG file ends with a whole page flagged as the last; a cut between two pages goes unnoticed."""
    with stream(encoded) as raw:
        raw.seek(max(0, size_of(raw) - _OGG_PAGE))
        end = raw.read()
    page = end[max(0, end.rfind(b"OggS")) :]
    body = 27 + page[26] if len(page) > 27 else len(page) + 1
    missing = body + sum(page[27:body]) - len(page)
    if missing > 0 or (missing < 0 and not page[5] & 4):
        raise AudioError("truncated", "its last OGG page is cut")


def _all_silent(file: Sound) -> bool:
    place = 0
    while len(block := file.read(place, _BLOCK)):
        if not _peak(block) <= _SILENT_PEAK:
            return False
        place += len(block)
    return True


def _peak(samples: np.ndarray) -> float:
    return float(np.abs(samples).max(initial=0))


# ---- samples ----


def read(
    audio: Audio, rate: int, start: float | None = None, seconds: float | None = None, channel: int | None = None
) -> np.ndarray:
    """Decode a clip, or a segment of a file.

    Args:
        audio: path, encoded bytes, or a row's ``{"path", "bytes"}``.
        rate: samples per second of the result.
        start: offset of the segment in seconds; None: the beginning of the file.
        seconds: length of the segment; None: up to the end.
        channel: the channel to take, counted from 0; None for all, see :func:`~sft_speech.audio.channels.one_channel`.

    Returns:
        float32 waveform (S,), resampled to ``rate``. S is ``samples_of(length, rate)`` for the length that
        :func:`probe` or ``seconds`` gives (M4A and the like may differ by some milliseconds).

    Raises:
        AudioError: missing, unreadable, truncated, empty, not finite, no such channel.
    """
    samples, own_rate = decode(audio, start, seconds)
    mono = one_channel(samples, channel)
    _check_finite(mono)
    wanted = samples_of(len(mono) / own_rate if seconds is None else seconds, rate)
    if rate > own_rate * _MOST_UPSAMPLING:
        raise AudioError("unreadable", f"its header gives a rate of {own_rate} Hz")
    if own_rate != rate:
        import soxr

        mono = soxr.resample(mono, own_rate, rate)
    # The resampler and MP3 headers are off by a few samples, but batches are planned from exact lengths.
    return np.pad(mono[:wanted], (0, max(0, wanted - len(mono)))) if len(mono) != wanted else np.ascontiguousarray(mono)


def read_row(row: Mapping[str, Any], rate: int) -> np.ndarray:
    """Decode the clip of a row of a corpus: its segment and its channel. See :func:`read`."""
    return read(row["audio"], rate, row["start"], row["seconds"], row.get("channel"))


def decode(audio: Audio, start: float | None = None, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Decode a clip, or a segment of a file, at its own rate and with all its channels.

    Args:
        audio, start, seconds: as :func:`read` takes them.

    Returns:
        float32 samples (S, C), not empty, and their rate.

    Raises:
        AudioError: missing, unreadable, truncated, empty.
    """
    encoded = _encoded(audio)
    try:
        with Sound(encoded) as file:
            samples, rate = _samples(file, encoded, start, seconds), file.samplerate
    except NotForLibsndfile as error:
        samples, rate = codecs.decode(encoded, start, seconds, error)
    if len(samples) == 0:
        raise AudioError("empty", "it holds no samples" if start is None else f"it holds nothing at {start:.2f} s")
    return samples, rate


def quietest(waveform: np.ndarray, rate: int) -> int:
    """Return the sample in the middle of the quietest :data:`QUIET_SECONDS` of a waveform (S,)."""
    window = samples_of(QUIET_SECONDS, rate)
    if len(waveform) <= window:
        return len(waveform) // 2
    blocks = waveform[: len(waveform) // window * window].reshape(-1, window)
    return int(np.square(blocks).sum(-1).argmin()) * window + window // 2


def _samples(file: Sound, encoded: str | bytes, start: float | None, seconds: float | None) -> np.ndarray:
    """Return samples (S, C) of the file or of a segment, at the file's own rate."""
    total = file.frames
    first = samples_of(start or 0.0, file.samplerate)
    wanted = max(0, total - first) if seconds is None else samples_of(seconds, file.samplerate)
    if seconds is None or first + wanted > total:
        _check_container(file, encoded)
    if first >= total:
        return np.zeros((0, file.channels), np.float32)
    samples = file.read(first, wanted)
    if len(samples) == 0 or len(samples) < wanted - max(_TAIL, _slack(file)):
        got, promised = (seconds_of(n, file.samplerate) for n in (len(samples), wanted))
        raise AudioError("truncated", f"{got:.2f} of {promised:.2f} s could be read")
    return np.pad(samples, ((0, wanted - len(samples)), (0, 0))) if len(samples) < wanted else samples


def _check_finite(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        bad = np.count_nonzero(~np.isfinite(samples))
        raise AudioError("not finite", f"{bad} of the {samples.size} samples read are NaN or infinite")


# ---- opening ----


def _encoded(audio: Audio) -> str | bytes:
    content: Any = audio
    if isinstance(audio, Mapping):
        content = audio.get("path") if audio.get("bytes") is None else audio["bytes"]
    if content is None:
        raise AudioError("missing file", "neither a path nor bytes")
    return content if isinstance(content, bytes) else os.fspath(content)
