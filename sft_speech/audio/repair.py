"""Files that libsndfile reads only in part, as parts that it reads completely.

WAV whose header says too little (a recorder crashed, or the size did not fit), WAVs, Oggs and MP3s that follow each
other in one file, and MP3s whose header lacks their length. A part is a list of pieces, see
:class:`~sft_speech.audio.splice.Splice`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from sft_speech.audio.splice import Piece

Part = list[Piece]

_OPEN = b"\xff\xff\xff\xff"  # the size of a chunk that goes on to the end of the file


# ---- WAV ----


def wav_parts(raw: BinaryIO, size: int) -> list[Part] | None:
    """Return the parts of a RIFF file that is longer than its header says; None if it isn't.

    What follows the end of the samples counts as samples too, unless it is a chunk, text, or zeros: a recorder that was
    stopped by force has not written the final size, and sizes over 4 GiB don't fit into the header.

    Args:
        raw: a file that begins with RIFF.
        size: its bytes.
    """
    parts: list[Part] = []
    begin, longer = 0, False
    while begin < size:
        found = _samples(raw, begin, size)
        if found is None:
            break
        first, stop, more = found
        longer |= more
        raw.seek(begin)
        header = raw.read(first - begin)
        parts.append([header[:4] + _OPEN + header[8:-4] + _OPEN, (first, stop)])
        begin = _next_riff(raw, begin, stop, size)
    return parts if longer or parts[1:] else None


def _samples(raw: BinaryIO, begin: int, size: int) -> tuple[int, int, bool] | None:
    """Return the range of the samples of the RIFF file at ``begin``, and whether it is longer than declared."""
    raw.seek(begin)
    head = raw.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    place = begin + 12
    for name, length in _chunks(raw, place, size):
        place += 8
        if name == b"data":
            stop = place + length
            longer = stop < size and _goes_on(raw, stop, size, empty=length == 0)
            return (place, size if longer else min(stop, size), longer) if place < size else None
        place += length + length % 2
    return None


def _chunks(raw: BinaryIO, place: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of each chunk from ``place`` on, as long as the name is one."""
    while place + 8 <= size:
        raw.seek(place)
        name, length = struct.unpack("<4sI", raw.read(8))
        if not all(32 <= letter < 127 for letter in name):
            return
        yield name, length
        place += 8 + length + length % 2


def _goes_on(raw: BinaryIO, stop: int, size: int, empty: bool) -> bool:
    """Return whether samples follow the declared end of the samples, instead of chunks, tags or padding."""
    for place in (stop, stop + stop % 2):
        if any(place + 8 + length <= size for _, length in _chunks(raw, place, size)):
            return False
    raw.seek(stop)
    rest = raw.read(64)
    if not rest.strip(b"\0"):
        return empty
    return not (rest.startswith(b"RIFF") or all(9 <= byte < 127 for byte in rest))


def _next_riff(raw: BinaryIO, begin: int, stop: int, size: int) -> int:
    """Return where the next RIFF file begins; the end of the file if there is none."""
    raw.seek(begin + 4)
    (length,) = struct.unpack("<I", raw.read(4))
    for place in (begin + 8 + length, stop, stop + stop % 2):
        raw.seek(min(place, size))
        if stop <= place < size and raw.read(4) == b"RIFF":
            return place
    return size


# ---- Ogg ----


def ogg_parts(raw: BinaryIO, size: int) -> list[Part] | None:
    """Return the links of a chained Ogg file (RFC 3533, section 4); None if it is one stream.

    Args:
        raw: a file that begins with OggS.
        size: its bytes.
    """
    starts, beginning, place = [], False, 0
    while place < size:
        raw.seek(place)
        page = raw.read(27 + 255)
        if page[:4] != b"OggS" or len(page) < 28:
            break
        first = bool(page[5] & 2)
        if first and not beginning:  # the streams of a link begin together
            starts.append(place)
        beginning = first
        place += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return [[(start, stop)] for start, stop in zip(starts, [*starts[1:], size], strict=True)] if starts[1:] else None


# ---- MP3 ----

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}  # by version
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # version 1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # 2 and 2.5
}


class _Frame(NamedTuple):
    """The header of a frame of layer III (ISO 11172-3, 2.4.1.3)."""

    header: bytes
    length: int  # bytes
    rate: int
    samples: int
    side: int  # bytes of header, checksum and side information, after which a Xing header may come

    @property
    def kind(self) -> tuple[int, bool]:
        return self.rate, self.header[3] >> 6 == 3  # mono


def mp3_parts(raw: BinaryIO, size: int) -> list[Part] | None:
    """Return an MP3 with a header that counts its frames, and without what is not sound; None if it has such a header.

    libsndfile guesses the length of an MP3 without a Xing header from its first frame, which is wrong for a variable
    bit rate, and stops at the length of the first of joined MP3s.

    Args:
        raw: the file.
        size: its bytes.
    """
    raw.seek(0)
    data = raw.read(1 << 16)
    start = _behind_tags(data)
    if start > len(data) - 200 and start < size:
        raw.seek(0)
        data = raw.read(start + 8192)
    first = _frame(data, start)
    if first is None or _counted(raw, start, first, size):
        return None
    raw.seek(0)
    data = raw.read()
    runs: list[tuple[int, int]] = []
    count, place = 0, start
    while place < size:
        frame = _frame(data, place)
        if frame is None or (frame.kind != first.kind):
            place = _resync(data, place, first)
            continue
        stop = place + frame.length
        if stop > size:
            break
        if data[place + frame.side : place + frame.side + 4] not in (b"Xing", b"Info"):
            count += 1
            if runs and runs[-1][1] == place:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((place, stop))
        place = stop
    return [[_xing(first, count), *runs]] if runs else None


def _frame(data: bytes, place: int) -> _Frame | None:
    """Return the frame at a place; None if there is none."""
    header = data[place : place + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # layer III
        return None
    version, kbits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or kbits in (0, 15) or rate == 3:
        return None
    samples = 1152 if version == 3 else 576
    hertz = _RATES[version][rate]
    length = samples // 8 * 1000 * _KBITS[version == 3][kbits] // hertz + (header[2] >> 1 & 1)
    mono = header[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return _Frame(header, length, hertz, samples, 4 + side)


def _counted(raw: BinaryIO, place: int, first: _Frame, size: int) -> bool:
    """Return whether the first frame, at a place, gives the number of all frames."""
    raw.seek(place + first.side)
    xing = raw.read(16)
    if xing[:4] not in (b"Xing", b"Info") or len(xing) < 16 or xing[7] & 3 != 3:
        return False
    frames, length = struct.unpack(">II", xing[8:])
    if not frames:  # an encoder of a stream could not know
        return False
    raw.seek(min(size, place + length))
    rest = raw.read(1 << 16)  # tags, or more frames; a file that is shorter is cut, which is found elsewhere
    return _resync(rest, -1, first) == len(rest)


def _behind_tags(data: bytes) -> int:
    """Return the place behind the ID3v2 tags at the beginning."""
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        place += 10 + _id3_length(data, place)
    while place < len(data) and data[place] == 0:  # padding
        place += 1
    return place


def _id3_length(data: bytes, place: int) -> int:
    high, mid, low, last = data[place + 6 : place + 10]
    return high << 21 | mid << 14 | low << 7 | last


def _resync(data: bytes, place: int, first: _Frame) -> int:
    """Return the place of the next frame of the same kind that another one, or the end, follows."""
    if data[max(0, place) :][:3] == b"ID3" and len(data) >= place + 10:
        place = max(0, place) + 10 + _id3_length(data, max(0, place)) - 1
    while (place := data.find(b"\xff", place + 1)) >= 0:
        found = _frame(data, place)
        if found is not None and found.kind == first.kind:
            after = _frame(data, place + found.length)
            if place + found.length == len(data) or (after is not None and after.kind == first.kind):
                return place
    return len(data)


def _xing(first: _Frame, frames: int) -> bytes:
    """Return a frame that holds the number of frames."""
    header = bytes([0xFF, first.header[1] | 1, 0xE0 | (first.header[2] & 0x0C), first.header[3]])  # highest bit rate
    made = _frame(header, 0)
    assert made is not None
    filled = header + bytes(made.side - 4) + b"Xing" + struct.pack(">II", 1, frames)
    return filled + bytes(made.length - len(filled))
