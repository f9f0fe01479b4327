"""A file whose header was replaced, or a part of a file, as a stream that libsndfile reads."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO

Piece = bytes | tuple[int, int]  # bytes, or the range [start, stop) of the file


class Splice(io.RawIOBase):
    """A stream of pieces that follow each other. Nothing is copied into memory.

    Args:
        raw: the file; closed with this stream.
        pieces: none of them empty.
    """

    def __init__(self, raw: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._raw, self._pieces = raw, pieces
        lengths = (len(one) if isinstance(one, bytes) else one[1] - one[0] for one in pieces)
        self._ends = list(accumulate(lengths))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._at, self._ends[-1])[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from as many pieces as it takes; return the bytes read."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and self._at < self._ends[-1]:
            number = bisect_right(self._ends, self._at)
            piece, left = self._pieces[number], min(self._ends[number] - self._at, len(view) - done)
            if isinstance(piece, bytes):
                got = piece[len(piece) - (self._ends[number] - self._at) :][:left]
            else:
                self._raw.seek(piece[1] - (self._ends[number] - self._at))
                got = self._raw.read(left)
            if not got:
                break
            view[done : done + len(got)] = got
            done, self._at = done + len(got), self._at + len(got)
        return done

    def close(self) -> None:
        self._raw.close()
        super().close()
