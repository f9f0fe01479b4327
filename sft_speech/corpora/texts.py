"""Text files of corpora: their encodings, and their lines."""

from __future__ import annotations

import codecs
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from sft_speech.errors import UserError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decoded(data: bytes) -> str:
    """Return text that is UTF-8, or UTF-16 with its mark; line ends become line feeds.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, stripped.

    Raises:
        UserError: it is not text.
    """
    try:
        return [line.strip() for line in decoded(path.read_bytes()).split("\n")]
    except UnicodeDecodeError as error:
        why = f"not UTF-8 text ({error.reason} at byte {error.start})"
        raise UserError(str(path), why, "convert it to UTF-8") from error


def read_text(path: Path, size: int | None = None) -> str:
    """Return the text of a file in UTF-8, or UTF-16 as Excel writes it.

    Args:
        size: bytes to read of it, the rest of which need not be text.

    Raises:
        UserError: neither of them.
    """
    with open(path, "rb") as file:
        data = file.read(size)
    try:
        return data.decode(_encoding(data), "strict" if size is None else "replace")
    except UnicodeDecodeError as error:
        why = f"not UTF-8 text ({error.reason} at byte {error.start})"
        this, new = (shlex.quote(str(one)) for one in (path, path.with_suffix(f".utf8{path.suffix}")))
        do = f"convert it to UTF-8, e.g. if Windows wrote it: iconv -f WINDOWS-1252 -t UTF-8 {this} > {new}"
        raise UserError(str(path), why, do) from error


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file as :func:`read_text` reads it, without holding all of it.

    Raises:
        UserError: see there.
    """
    with open(path, "rb") as file:
        encoding = _encoding(file.read(4))
    try:
        with open(path, encoding=encoding) as lines:
            yield from lines
    except UnicodeDecodeError:
        read_text(path)  # raises the error with the place in the file
        raise


def _encoding(data: bytes) -> str:
    """Return the encoding of a text by its first bytes: its byte order mark, or zeros."""
    encoding = json.detect_encoding(data)
    return encoding if encoding.startswith("utf-16") else "utf-8-sig"
