"""Recordings as libsndfile reads them: whole files, and the parts that :mod:`~sft_speech.audio.repair` finds.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sft_speech.audio.codecs import AudioError, NotForLibsndfile
from sft_speech.audio.kinds import why_not
from sft_speech.audio.quiet import quiet
from sft_speech.audio.repair import Part, mp3_parts, ogg_parts, wav_parts
from sft_speech.audio.splice import Splice
from sft_speech.audio.units import seconds_of

if TYPE_CHECKING:
    import soundfile

_UNKNOWN_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT of sndfile.h
_OPEN_LENGTH = 1 << 62  # libsndfile gives at least this for a FLAC whose header has no length
_BLOCK = 1 << 16  # samples read at a time to get to a place that cannot be sought
_LONG_HEADER = 4096  # bytes: a longer file without samples has a wrong header
_RESERVOIR = 16 * 1152  # samples of the frames of an MP3 whose bits a later frame may use: at most 11
_OGG_PAGE = 65_307  # the longest page of RFC 3533, in bytes


class Sound:
    """An open recording. Places are in samples from its beginning.

    Args:
        encoded: path, or the bytes of a file.

    Attributes:
        frames: samples per channel.
        samplerate, channels, format, subtype: as those of ``soundfile.SoundFile``; of the first part.
        parts: how many files follow each other in this one.
        repaired: what is wrong with its header, in words; "" if nothing is.

    Raises:
        AudioError: missing, empty, not audio, or unreadable.
        NotForLibsndfile: FFmpeg may be able to read it.
    """

    def __init__(self, encoded: str | bytes) -> None:
        self.encoded = encoded
        self.repaired = ""
        self._parts: list[Part] | None = None
        self._files: list[soundfile.SoundFile] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        first = self._files[0]
        self.samplerate, self.channels = first.samplerate, first.channels
        self.format, self.subtype = first.format, first.subtype
        self._quiet = quiet() if self.subtype.startswith("MPEG") else contextlib.nullcontext()
        self._lengths = [file.frames for file in self._files]
        self.frames = sum(self._lengths)
        self._place: list[int | None] = [0] * len(self._files)  # of each part; None: unknown since an error

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    @property
    def extra_info(self) -> str:
        """What libsndfile logged when it opened the first part; a copy of 16 KB, so only for those who ask."""
        return self._files[0].extra_info

    # ---- opening ----

    def _open(self) -> None:
        import soundfile

        encoded = self.encoded
        try:
            self._files = [_sound_file(encoded)]
        except soundfile.LibsndfileError as error:
            with stream(encoded) as raw:
                self._parts = wav_parts(raw, size_of(raw)) if raw.read(4) == b"RIFF" else None
                if self._parts is None:
                    raw.seek(0)
                    name = encoded if isinstance(encoded, str) else ""
                    raise why_not(raw, size_of(raw), _said(error), name) from error
        else:
            self._parts = self._better(self._files[0])
        if self._parts is not None:
            self._open_parts()
        if self._files[0].frames >= _OPEN_LENGTH:
            raise NotForLibsndfile("a FLAC that was written to a pipe, so its header lacks the length")
        if self._files[0].frames <= 0 and self._files[0].format not in ("WAV", "WAVEX"):
            with stream(encoded) as raw:
                if size_of(raw) > _LONG_HEADER:
                    raise NotForLibsndfile(f"{self._files[0].format} whose header gives no length")

    def _better(self, file: soundfile.SoundFile) -> list[Part] | None:
        """Return the parts of a file that libsndfile opens, and reads only in part."""
        container = file.format
        if container == "OGG" and self._is_chained():
            with stream(self.encoded) as raw:
                return ogg_parts(raw, size_of(raw))
        if container == "MP3" and file.subtype == "MPEG_LAYER_III":
            with stream(self.encoded) as raw:
                return mp3_parts(raw, size_of(raw))
        if container in ("WAV", "WAVEX") and (file.frames <= 0 or "Exiting parser" in file.extra_info):
            with stream(self.encoded) as raw:
                return wav_parts(raw, size_of(raw))
        return None

    def _is_chained(self) -> bool:
        """Return whether an Ogg file ends with another stream than it begins with.

        Streams of the same number are found in files shorter than a page may be.
        """
        with stream(self.encoded) as raw:
            first = raw.read(27)[14:18]
            raw.seek(max(0, size_of(raw) - _OGG_PAGE))
            end = raw.read()
        last = end.rfind(b"OggS")
        return end[last + 14 : last + 18] != first or (len(end) < _OGG_PAGE and end.count(b"OggS\0\2") > 1)

    def _open_parts(self) -> None:
        import soundfile

        whole, self._files = self._files, []
        for file in whole:
            file.close()
        for part in self._parts or ():
            try:
                self._files.append(self._part(part))
            except soundfile.LibsndfileError as error:
                raise NotForLibsndfile(f"part {len(self._files) + 1} of it cannot be read ({_said(error)})") from error
        shapes = {(file.samplerate, file.channels) for file in self._files}
        if len(shapes) > 1:
            raise NotForLibsndfile(f"{len(self._files)} recordings of different rates or channels in one file")
        if self._files[1:]:
            self.repaired = f"{len(self._files)} recordings joined in one file: all of them are read"
        elif self._files[0].format != "MP3":
            self.repaired = "its header gives a wrong length: all that it holds is read"

    def _part(self, part: Part) -> soundfile.SoundFile:
        return _sound_file(io.BufferedReader(Splice(stream(self.encoded), part)))

    # ---- samples ----

    def read(self, start: int, samples: int, exact: bool = True) -> np.ndarray:
        """Return samples (S, C), S at most ``samples``, from the place ``start`` on; fewer if the file ends before.

        Args:
            exact: False if the first 0.3 s may be zeros, which is faster.

        Raises:
            AudioError: truncated, or unreadable because it would not fit into memory.
        """
        found = []
        for number, length in enumerate(self._lengths):
            if start < length and samples > 0:
                wanted = min(samples, length - start) if number + 1 < len(self._lengths) else samples
                found.append(self._read_part(number, start, wanted, exact))
                if len(found[-1]) < wanted:
                    break
                start, samples = length, samples - wanted
            start -= length
        return found[0] if len(found) == 1 else np.concatenate(found or [np.zeros((0, self.channels), np.float32)])

    def _read_part(self, number: int, start: int, samples: int, exact: bool) -> np.ndarray:
        import soundfile

        try:
            if start or self._place[number] != start:
                found = self._sought(number, start, samples, exact)
                if found is not None:
                    return found
                self._forward(number, start)
            return self._next(number, samples)
        except MemoryError as error:  # a FLAC of a kilobyte may declare weeks of audio
            seconds = seconds_of(samples or self.frames, self.samplerate)
            raise AudioError("unreadable", f"its {seconds:.0f} s don't fit into memory") from error
        except (soundfile.SoundFileRuntimeError, ValueError) as error:
            where = seconds_of(sum(self._lengths[:number]) + start, self.samplerate)
            raise AudioError("truncated", f"cut or damaged at or after {where:.2f} s") from error

    def _sought(self, number: int, start: int, samples: int, exact: bool) -> np.ndarray | None:
        """Return samples from a place that libsndfile seeks to; None if it cannot."""
        import soundfile

        file = self._files[number]
        if not file.seekable():
            return None
        # libmpg123 gives zeros for frames that use bits of those before the place that it sought to. soundfile seeks
        # after each read, so this has to be one read.
        before = min(start, _RESERVOIR) if exact and self.subtype == "MPEG_LAYER_III" else 0
        try:
            with self._quiet:
                file.seek(start - before)
            self._place[number] = start - before
            found = self._next(number, before + samples)[before:]
        except (soundfile.SoundFileRuntimeError, ValueError):
            self._place[number] = None
            return None
        if not len(found):  # MP3 in WAV gives nothing after a seek
            self._place[number] = None
            return None
        return found

    def _forward(self, number: int, start: int) -> None:
        """Get to a place by reading up to it, from the beginning if it is behind."""
        place = self._place[number]
        if place is None or place > start:
            self._files[number].close()
            self._files[number] = _sound_file(self.encoded) if self._parts is None else self._part(self._parts[number])
            self._place[number] = place = 0
        while place < start:
            got = len(self._next(number, min(_BLOCK, start - place)))
            if not got:
                break
            place += got

    def _next(self, number: int, samples: int) -> np.ndarray:
        """Return the next samples of a part whose place is known."""
        place = self._place[number]
        assert place is not None
        found = np.empty((min(samples, max(0, self._lengths[number] - place)), self.channels), np.float32)
        if len(found):
            with self._quiet:  # `read` would take 15 µs more, to look at the array
                found = found[: self._files[number].buffer_read_into(found, "float32")]
        self._place[number] = place + len(found)
        return found


def stream(encoded: str | bytes) -> BinaryIO:
    """Open a file, or its bytes.

    Raises:
        AudioError: missing, or unreadable.
    """
    if isinstance(encoded, bytes):
        return io.BytesIO(encoded)
    try:
        return open(encoded, "rb")
    except FileNotFoundError as error:
        raise AudioError("missing file", _missing(encoded)) from error
    except (OSError, ValueError) as error:
        raise AudioError("unreadable", getattr(error, "strerror", None) or str(error)) from error


def _missing(path: str) -> str:
    if "://" in path:
        return f"{path} is a URL, and only files are read: download it first"
    with contextlib.suppress(OSError, ValueError):
        if os.path.islink(path):
            return f"a link to {os.readlink(path)!r}, which doesn't exist"
    return f"no file {path!r}"


def size_of(raw: BinaryIO) -> int:
    """Return the bytes of an open file."""
    return raw.getbuffer().nbytes if isinstance(raw, io.BytesIO) else os.fstat(raw.fileno()).st_size


def _sound_file(encoded: str | bytes | io.BufferedReader) -> soundfile.SoundFile:
    """Open a file; libsndfile gets paths as they are, because a Python file object costs three times as much."""
    import soundfile

    if isinstance(encoded, str):
        if encoded.lower().endswith(".raw"):  # soundfile would ask for a rate, even if the file has a header
            raw = stream(encoded)
            file: Any = io.BufferedReader(Splice(raw, [(0, size_of(raw))]))
        else:
            file = os.fsencode(encoded) if os.name == "posix" else encoded  # soundfile refuses a str that isn't UTF-8
    else:
        file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    with quiet():
        return soundfile.SoundFile(file)


def _said(error: soundfile.LibsndfileError) -> str:
    """Return what libsndfile says about a file; "" if it doesn't know the format."""
    if error.code == _UNKNOWN_FORMAT:
        return ""
    return error.error_string.strip().rstrip(".") or f"libsndfile error {error.code}"
