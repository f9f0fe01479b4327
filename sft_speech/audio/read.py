"""One clip: its length from the header, its samples at the model's rate; and the arithmetic of seconds, samples and
frames.

No other module turns seconds into samples or samples into frames. libsndfile reads WAV, FLAC, MP3, OGG, Opus, AIFF,
AU, W64, CAF; everything else (M4A, WebM, WMA ...) goes to torchcodec where that is installed.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np

if TYPE_CHECKING:
    import soundfile
    from torchcodec.decoders import AudioDecoder

Audio = str | Path | bytes | Mapping[str, Any]  # a path, an encoded file in memory, or a row's {"path", "bytes"}

# libsndfile reads the first line, the others need FFmpeg.
AUDIO_SUFFIXES = frozenset(
    [
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".w64", ".rf64", ".caf"),
        *(".m4a", ".aac", ".webm", ".mka", ".wma", ".amr"),
    ]
)
VIDEO_SUFFIXES = frozenset([".mp4", ".mkv"])
QUIET_SECONDS = 0.05  # how much of a recording decides how quiet it is somewhere

_TAIL = 256  # samples decoded at the end of a file: enough to know that the end is there
_SILENT_PEAK = 1e-4  # -80 dB of full scale, three steps of 16-bit audio: nothing was recorded
_UNKNOWN_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT of sndfile.h
_UNKNOWN_LENGTH = 0x7FFF_0000  # writers to a pipe put the largest number that fits in place of a length
_OGG_PAGE = 65_307  # the longest page of RFC 3533, in bytes
_OPEN_LENGTH = 1 << 62  # or more: what libsndfile answers for a FLAC whose header leaves the length open
# What libsndfile notes on opening a file that is shorter than its header says.
_CUT = re.compile(r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")
_MOST_UPSAMPLING = 100  # nobody records at 160 Hz; of a sample a second, resampling would make gigabytes
_BLOCK = 1 << 14  # samples read at a time in search of the first sound


def is_audio(name: str, suffixes: frozenset[str] = AUDIO_SUFFIXES) -> bool:
    """Whether a file's name is that of audio; hidden ones (``._a.wav``, which macOS leaves on other disks) aren't."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


class AudioError(Exception):
    """This clip can't be used.

    Attributes:
        reason: one of "missing file", "unreadable", "truncated", "empty", "not finite"; what the corpus report counts.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # it crosses from loader workers to the main process


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Args:
        samples: per channel, at ``rate``.
        rate: samples per second.
        channels: 1 or more.
        silent: nothing louder than -80 dB of full scale in the whole file.
        kind: container and coding as libsndfile names them, "WAV PCM_16"; "" where FFmpeg reads the file.
    """

    samples: int
    rate: int
    channels: int
    silent: bool = False
    kind: str = field(default="", compare=False)

    @property
    def seconds(self) -> float:
        return seconds_of(self.samples, self.rate)


# ---- seconds, samples, frames ----


@overload
def samples_of(seconds: float, rate: int) -> int: ...
@overload
def samples_of(seconds: np.ndarray, rate: int) -> np.ndarray: ...
def samples_of(seconds, rate):
    """Seconds to whole samples, to the nearest; numbers or arrays."""
    samples = np.rint(np.asarray(seconds, np.float64) * rate).astype(np.int64)
    return samples if samples.ndim else int(samples)


@overload
def seconds_of(samples: int, rate: int) -> float: ...
@overload
def seconds_of(samples: np.ndarray, rate: int) -> np.ndarray: ...
def seconds_of(samples, rate):
    """Samples to seconds; numbers or arrays."""
    return samples / rate


@overload
def conv_frames(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int: ...
@overload
def conv_frames(samples: np.ndarray, kernels: Sequence[int], strides: Sequence[int]) -> np.ndarray: ...
def conv_frames(samples, kernels, strides):
    """Frames that a stack of unpadded convolutions gives: wav2vec 2.0's feature encoder (arXiv:2006.11477), exactly.

    Args:
        samples: a number or an array of them.
        kernels: width of each layer, in its own input.
        strides: step of each layer, in its own input.

    Returns:
        frames, 0 for a clip shorter than the receptive field; number or array as given.
    """
    frames = np.asarray(samples, np.int64)
    for kernel, stride in zip(kernels, strides, strict=True):
        frames = np.maximum((frames - kernel) // stride + 1, 0)
    return frames if frames.ndim else int(frames)


# ---- headers ----


def probe(audio: Audio) -> Header:
    """Length, rate and channels, without decoding the file; a cut or silent one is found out.

    The last samples are decoded, because a FLAC keeps the length it was meant to have when its end is lost. That costs
    a seek (0.2 ms; decoding a clip of 12 s costs 5 ms); only a file that ends in silence is read further, to the first
    sound.

    Raises:
        AudioError: missing, empty, truncated, unreadable, or (where its end shows it) not finite.
    """
    encoded = _encoded(audio)
    try:
        with _open(encoded) as file:
            return _header(file, encoded)
    except _NotForLibsndfile as error:
        return _probe_with_torchcodec(encoded, error)


def _header(file: soundfile.SoundFile, encoded: str | bytes) -> Header:
    samples, rate = file.frames, file.samplerate
    if samples <= 0:
        raise AudioError("empty", "it holds no sample")
    _check_container(file, encoded)
    start = max(0, samples - (_slack(file) if file.format == "MP3" else _TAIL))
    tail = _decode(file, start, samples - start)
    if len(tail) == 0:
        raise AudioError("truncated", f"its header promises {seconds_of(samples, rate):.2f} s, the end is missing")
    _check_finite(tail)
    silent = _peak(tail) <= _SILENT_PEAK and _all_silent(file)
    return Header(samples, rate, file.channels, silent, f"{file.format} {file.subtype}")


def _slack(file: soundfile.SoundFile) -> int:
    """Samples that may be missing without the file being cut: headers written by hand, and MP3 lengths, which count in
    packets.
    """
    quarter = file.samplerate // 4
    return quarter if file.format == "MP3" else min(quarter, file.frames // 50)


def _check_container(file: soundfile.SoundFile, encoded: str | bytes) -> None:
    """libsndfile shortens cut WAV, AIFF, AU, CAF and OGG files, and some MP3, in silence; the container still tells."""
    if file.format == "OGG":
        return _check_last_page(encoded)
    if file.format == "MP3":
        return _check_mp3_length(encoded)
    if file.format == "FLAC":
        return None
    for declared, found in _CUT.findall(file.extra_info):
        lost = file.frames * (int(declared) / max(1, int(found)) - 1)
        if int(declared) < _UNKNOWN_LENGTH and lost > _slack(file):
            seconds, whole = (seconds_of(n, file.samplerate) for n in (file.frames, file.frames + lost))
            raise AudioError("truncated", f"it holds {seconds:.2f} of {whole:.2f} s")
    return None


def _check_last_page(encoded: str | bytes) -> None:
    """An OGG file ends with a whole page, flagged as the last of its stream; a stream that was cut between two pages
    passes.
    """
    with _stream(encoded) as raw:
        raw.seek(max(0, _size(raw) - _OGG_PAGE))
        end = raw.read()
    page = end[max(0, end.rfind(b"OggS")) :]
    body = 27 + page[26] if len(page) > 27 else len(page) + 1
    missing = body + sum(page[27:body]) - len(page)
    if missing > 0 or (missing < 0 and not page[5] & 4):
        raise AudioError("truncated", "its last OGG page is cut")


def _check_mp3_length(encoded: str | bytes) -> None:
    """Without a Xing header libsndfile guesses the length from the first packet, and stops there: a third of a clip
    can be lost.
    """
    with _stream(encoded) as raw, _open(raw) as file:
        _decode(file, max(0, file.frames - 1), 1)
        if _size(raw) - raw.tell() > max(8192, _size(raw) // 20):  # more than tags behind the last packet
            raise _NotForLibsndfile(
                "an MP3 of variable bit rate without the header that gives its length; encode it anew"
            )


def _all_silent(file: soundfile.SoundFile) -> bool:
    file.seek(0)
    while len(block := _decode(file, None, _BLOCK)):
        if not _peak(block) <= _SILENT_PEAK:
            return False
    return True


def _peak(samples: np.ndarray) -> float:
    return float(np.abs(samples).max(initial=0))


# ---- samples ----


def read(audio: Audio, rate: int, start: float | None = None, seconds: float | None = None) -> np.ndarray:
    """Decodes one clip, or one segment of a file.

    Args:
        audio: path, encoded bytes, or a row's ``{"path", "bytes"}``.
        rate: samples per second wanted.
        start: offset of the segment in seconds; None is the beginning.
        seconds: length of the segment; None is up to the end.

    Returns:
        float32 waveform (S,): channels averaged, resampled to ``rate``. S is ``samples_of(length, rate)`` for the
        length that :func:`probe` or ``seconds`` gives (M4A and the like may differ by some milliseconds).

    Raises:
        AudioError: missing, unreadable, truncated, empty, not finite.
    """
    samples, own_rate = decode(audio, start, seconds)
    mono = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    _check_finite(mono)
    wanted = samples_of(len(mono) / own_rate if seconds is None else seconds, rate)
    if rate > own_rate * _MOST_UPSAMPLING:
        raise AudioError("unreadable", f"its header gives a rate of {own_rate} Hz")
    if own_rate != rate:
        import soxr

        mono = soxr.resample(mono, own_rate, rate)
    # The resampler, and MP3 headers, are off by a few samples; plans of batches are made from lengths and hold only if
    # these are exact.
    return np.pad(mono[:wanted], (0, max(0, wanted - len(mono)))) if len(mono) != wanted else np.ascontiguousarray(mono)


def decode(audio: Audio, start: float | None = None, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Decodes one clip, or one segment of a file, as it was recorded.

    Args:
        audio, start, seconds: as :func:`read` takes them.

    Returns:
        float32 samples (S, C), not empty, and their rate.

    Raises:
        AudioError: missing, unreadable, truncated, empty.
    """
    encoded = _encoded(audio)
    try:
        with _open(encoded) as file:
            samples, rate = _samples(file, encoded, start, seconds), file.samplerate
    except _NotForLibsndfile as error:
        samples, rate = _read_with_torchcodec(encoded, start, seconds, error)
    if len(samples) == 0:
        raise AudioError("empty", "it holds no sample" if start is None else f"nothing at {start:.2f} s")
    return samples, rate


def quietest(waveform: np.ndarray, rate: int) -> int:
    """The sample amid the quietest :data:`QUIET_SECONDS` of (S,); the middle one where it is no longer than that."""
    window = samples_of(QUIET_SECONDS, rate)
    if len(waveform) <= window:
        return len(waveform) // 2
    blocks = waveform[: len(waveform) // window * window].reshape(-1, window)
    return int(np.square(blocks).sum(-1).argmin()) * window + window // 2


def _samples(file: soundfile.SoundFile, encoded: str | bytes, start: float | None, seconds: float | None) -> np.ndarray:
    """Samples (S, C) of the whole file or of a segment, at the file's own rate."""
    total = file.frames
    first = samples_of(start or 0.0, file.samplerate)
    wanted = max(0, total - first) if seconds is None else samples_of(seconds, file.samplerate)
    if seconds is None or first + wanted > total:
        _check_container(file, encoded)
    if first >= total:
        return np.zeros((0, file.channels), np.float32)
    samples = _decode(file, first, wanted)
    if len(samples) == 0 or len(samples) < wanted - max(_TAIL, _slack(file)):
        got, promised = (seconds_of(n, file.samplerate) for n in (len(samples), wanted))
        raise AudioError("truncated", f"{got:.2f} of {promised:.2f} s could be read")
    return np.pad(samples, ((0, wanted - len(samples)), (0, 0))) if len(samples) < wanted else samples


def _decode(file: soundfile.SoundFile, start: int | None, samples: int) -> np.ndarray:
    """Samples (S, C), S at most ``samples``, from ``start`` or from where the file stands."""
    import soundfile

    try:
        if start is not None:
            file.seek(start)
        return file.read(samples, dtype="float32", always_2d=True)
    except MemoryError as error:  # of a promise: a FLAC of a kilobyte may say that it holds weeks
        seconds = seconds_of(samples or file.frames, file.samplerate)
        raise AudioError("unreadable", f"its {seconds:.0f} s don't fit into memory") from error
    except (soundfile.SoundFileRuntimeError, ValueError) as error:
        at = "damaged" if start is None else f"damaged at or after {seconds_of(start, file.samplerate):.2f} s"
        raise AudioError("truncated", f"cut or {at}") from error


def _check_finite(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        bad = np.count_nonzero(~np.isfinite(samples))
        raise AudioError("not finite", f"{bad} of the {samples.size} samples read are NaN or infinite")


# ---- opening ----


class _NotForLibsndfile(Exception):
    """libsndfile can't read this file, or not all of it; torchcodec may."""


def _encoded(audio: Audio) -> str | bytes:
    held: Any = audio
    if isinstance(audio, Mapping):
        held = audio.get("path") if audio.get("bytes") is None else audio["bytes"]
    if held is None:
        raise AudioError("missing file", "neither a path nor bytes")
    return held if isinstance(held, bytes) else os.fspath(held)


def _stream(encoded: str | bytes) -> BinaryIO:
    return io.BytesIO(encoded) if isinstance(encoded, bytes) else open(encoded, "rb")


def _size(raw: BinaryIO) -> int:
    return raw.getbuffer().nbytes if isinstance(raw, io.BytesIO) else os.fstat(raw.fileno()).st_size


def _open(encoded: str | bytes | BinaryIO) -> soundfile.SoundFile:
    """Paths go to libsndfile as they are: reading through a Python file object costs three times as much."""
    import soundfile

    if isinstance(encoded, str) and os.name == "posix":
        file_or_name: Any = os.fsencode(encoded)  # soundfile wouldn't take a name that is no UTF-8
    else:
        file_or_name = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        file = soundfile.SoundFile(file_or_name)
    except soundfile.LibsndfileError as error:
        _check_file(encoded)
        if error.code == _UNKNOWN_FORMAT:
            raise _NotForLibsndfile("not an audio format that libsndfile knows") from error
        raise AudioError("unreadable", error.error_string.strip() or f"libsndfile error {error.code}") from error
    if file.frames >= _OPEN_LENGTH:
        file.close()
        raise _NotForLibsndfile("a FLAC that was written to a pipe, its header lacks the length; encode it anew")
    return file


def _check_file(encoded: str | bytes | BinaryIO) -> None:
    """libsndfile's "System error" in words."""
    try:
        with _stream(encoded) if isinstance(encoded, str | bytes) else encoded as raw:
            if _size(raw) == 0:
                raise AudioError("empty", "a file of 0 bytes")
    except FileNotFoundError as error:
        raise AudioError("missing file", f"no file {encoded!r}") from error
    except (OSError, ValueError) as error:
        raise AudioError("unreadable", getattr(error, "strerror", None) or str(error)) from error


def _torchcodec(encoded: str | bytes, why: _NotForLibsndfile) -> AudioDecoder:
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: installed, but no FFmpeg on this system
        raise AudioError("unreadable", f"{why} (torchcodec with FFmpeg reads more formats; it is not here)") from error
    try:
        return AudioDecoder(encoded)
    except (RuntimeError, ValueError) as error:
        raise AudioError("unreadable", f"{why}, nor FFmpeg") from error


def _probe_with_torchcodec(encoded: str | bytes, why: _NotForLibsndfile) -> Header:
    metadata = _torchcodec(encoded, why).metadata
    if not metadata.duration_seconds or not metadata.sample_rate:
        raise AudioError("empty", "its header gives no length")
    samples = samples_of(metadata.duration_seconds, metadata.sample_rate)
    return Header(samples, metadata.sample_rate, metadata.num_channels or 1)


def _read_with_torchcodec(
    encoded: str | bytes, start: float | None, seconds: float | None, why: _NotForLibsndfile
) -> tuple[np.ndarray, int]:
    """Samples (S, C) and their rate."""
    decoder = _torchcodec(encoded, why)
    try:
        stop = None if seconds is None else (start or 0.0) + seconds
        decoded = decoder.get_samples_played_in_range(start or 0.0, stop)
    except (RuntimeError, ValueError, IndexError) as error:
        raise AudioError("truncated", "cut or damaged (FFmpeg)") from error
    return decoded.data.numpy().T, decoded.sample_rate
