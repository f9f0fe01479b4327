"""Markdown out of words that are not ours: names, ids and transcripts can hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
_MEANS_SOMETHING = re.compile(r"[\\`*_\[\]#~$]")


def line(words: object) -> str:
    """Words on one line: what can't be seen becomes a space."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(words)).split())


def text(words: object) -> str:
    """Words on one line that mean nothing but themselves, in a paragraph, a heading or a table."""
    escaped = _MEANS_SOMETHING.sub(r"\\\g<0>", line(words))
    return "".join(_HTML.get(c, c) for c in escaped)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the heads are ours, the cells anybody's."""
    cells = [heads, ["---"] * len(heads), *([text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def code(content: str, language: str = "") -> str:
    """A block of code, its fence longer than any within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", content)), default=0))
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"
