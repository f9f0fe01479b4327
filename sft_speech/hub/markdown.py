"""Markdown from text that others wrote: names, ids and transcripts can hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
_SPECIAL = re.compile(r"[\\`*_\[\]#~$]")


def line(content: object) -> str:
    """Return content as one line, with a space for each unprintable character."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(content)).split())


def text(content: object) -> str:
    """Return content as one line without markup, for a paragraph, a heading or a table."""
    escaped = _SPECIAL.sub(r"\\\g<0>", line(content))
    return "".join(_HTML.get(c, c) for c in escaped)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; ``heads`` may hold markup, cells are escaped."""
    cells = [heads, ["---"] * len(heads), *([text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def code(content: str, language: str = "") -> str:
    """Return a block of code with a fence that is longer than any in its content."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", content)), default=0))
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"
