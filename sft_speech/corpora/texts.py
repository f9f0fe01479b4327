"""Text files that come with recordings: their encodings, and their lines."""

from __future__ import annotations

import codecs
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
