"""Praat TextGrids with their recordings, in the long or the short form of text.

Like Praat, the reader takes quoted strings, numbers and flags that stand alone, and skips all other words, which is why
both forms are the same to it. See "TextGrid file formats" in Praat's manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sft_speech.corpora.annotated import Segment, Unreadable, annotated_layout, one_line, text_of, to_seconds
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts.tiers import chosen
from sft_speech.corpora.report import Dropped

_TOKEN = re.compile(r'"(?P<string>(?:[^"]++|"")*+)"|(?P<flag><\w+>)|!.*|(?P<word>\S+)')
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", re.ASCII)


class Tier(NamedTuple):
    """A tier of intervals (start, end, text)."""

    name: str
    intervals: list[tuple[str, str, str]]


def read(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the intervals that have text.

    Raises:
        Unreadable: not a TextGrid in text form.
        UserError: several tiers have text and the columns choose none.
    """
    tiers = [tier for tier in tiers_of(text_of(path)) if any(text for *_, text in tier.intervals)]
    for number, speaker, name in chosen(path, [(tier.name, "") for tier in tiers], columns):
        for place, (start, end, text) in enumerate(tiers[number].intervals, 1):
            if text:
                try:
                    yield Segment(text, to_seconds(start), to_seconds(end), speaker, tier=name)
                except ValueError:
                    yield Dropped(f"{tiers[number].name} {place}", "bad segment", f"from {start} to {end}")


def tiers_of(text: str) -> list[Tier]:
    """Return the tiers of intervals; tiers of points have no utterances.

    Raises:
        Unreadable: not a TextGrid in text form.
    """
    if text.startswith("ooBinaryFile"):
        raise Unreadable("a binary TextGrid; save it as a text file in Praat")
    tokens = _tokens(text)
    try:
        kind, form = next(tokens), next(tokens)
        if not kind.startswith("ooTextFile") or form != "TextGrid":
            raise Unreadable("not a TextGrid")
        next(tokens), next(tokens)  # its start and end
        tiers = []
        for _ in range(int(next(tokens)) if next(tokens) == "exists" else 0):
            kind, name = next(tokens), next(tokens)
            next(tokens), next(tokens)
            rows = range(int(next(tokens)))
            if kind == "IntervalTier":
                tiers.append(Tier(name, [(next(tokens), next(tokens), one_line(next(tokens))) for _ in rows]))
            elif kind == "TextTier":
                for _ in rows:
                    next(tokens), next(tokens)
            else:
                raise Unreadable(f"a tier of an unknown kind, {kind[:40]!r}")
    except (StopIteration, RuntimeError, ValueError) as error:  # RuntimeError: StopIteration within a comprehension
        raise Unreadable("it is cut or damaged") from error
    return tiers


def _tokens(text: str) -> Iterator[str]:
    """Yield the strings, numbers and flags of a text file of Praat."""
    for found in _TOKEN.finditer(text):
        if found["string"] is not None:
            yield found["string"].replace('""', '"')
        elif found["flag"] is not None:
            yield found["flag"][1:-1]
        elif found["word"] is not None and _NUMBER.fullmatch(found["word"]):
            yield found["word"]


LAYOUT = annotated_layout("Praat TextGrids with their recordings (a.TextGrid, a.wav)", (".textgrid",), read)
