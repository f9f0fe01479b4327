"""Subtitles from words with times: SRT and WebVTT.

Sizes follow the usual guides (BBC Subtitle Guidelines, Netflix Timed Text Style Guide): two lines of at most 42
characters, or 16 wide ones (Chinese, Japanese, Korean), at most 7 seconds, cut at pauses.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sft_speech.errors import printable
from sft_speech.tasks.asr.recognizer import Span

LINE_CHARACTERS = 42
WIDE_CHARACTERS = 16  # in a line of wide characters
CUE_SECONDS = 7.0
PAUSE_SECONDS = 0.8  # a silence that ends a cue
SHORT_PAUSE_SECONDS = 0.25  # a silence at which a full cue is preferably cut
SHORTEST_SECONDS = 1.0  # shorter cues flicker; they stay this long unless another one follows


@dataclass(frozen=True)
class Cue:
    """One subtitle: lines of text, shown from start to end, in seconds."""

    text: str
    start: float
    end: float


def cues(words: Sequence[Span], seconds: float) -> list[Cue]:
    """Return words as subtitles that do not overlap.

    Args:
        words: in order of time.
        seconds: length of the recording; the last cue ends there at the latest.
    """
    groups: list[list[Span]] = []
    group: list[Span] = []
    for word in _short_words(words):
        if group and word.start - group[-1].end >= PAUSE_SECONDS:
            groups.append(group)
            group = []
        while group and not _fits([*group, word]):
            cut = _best_cut([*group, word])
            groups.append(group[:cut])
            group = group[cut:]
        group.append(word)
    if group:
        groups.append(group)
    shown = []
    for number, group in enumerate(groups):
        latest = groups[number + 1][0].start if number + 1 < len(groups) else max(seconds, group[-1].end)
        end = min(max(group[-1].end, group[0].start + SHORTEST_SECONDS), latest)
        shown.append(Cue("\n".join(_lines(group)), group[0].start, max(end, group[0].start)))
    return shown


def single_cues(spans: Iterable[Span]) -> list[Cue]:
    """Return a cue for each word or character."""
    return [Cue(printable(span.text), span.start, span.end) for span in spans if span.text.strip()]


def srt(shown: Iterable[Cue]) -> str:
    """Return SubRip: numbered cues with ``hh:mm:ss,mmm`` times. It has no escapes, and arrows belong to times only."""
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text.replace('-->', '->')}\n"
        for number, cue in enumerate(shown, 1)
    ]
    return "\n".join(blocks)


def vtt(shown: Iterable[Cue]) -> str:
    """Return WebVTT (https://www.w3.org/TR/webvtt1/): ``hh:mm:ss.mmm`` times, ``&``, ``<`` and ``>`` escaped."""
    blocks = ["WEBVTT\n"]
    for cue in shown:
        text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{text}\n")
    return "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def width(text: str) -> float:
    """Return how many plain characters are as wide as a text."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.combining(c) > 0 or unicodedata.category(c) == "Mn" for c in text)
    return len(text) - marks + wide * (LINE_CHARACTERS / WIDE_CHARACTERS - 1)


def _short_words(words: Iterable[Span]) -> Iterable[Span]:
    """Yield words; those longer than a line (scripts without spaces) in pieces, with their time divided evenly."""
    for word in words:
        text = printable(word.text)  # an empty line would end a cue
        most = LINE_CHARACTERS if text.isascii() else WIDE_CHARACTERS
        if width(text) <= LINE_CHARACTERS:
            most = max(len(text), 1)
        pieces = [text[n : n + most] for n in range(0, len(text), most)]
        length = (word.end - word.start) / max(len(text), 1)
        at = word.start
        for number, piece in enumerate(pieces):
            yield Span(piece, at, at + length * len(piece), glued=word.glued or number > 0)
            at += length * len(piece)


def _fits(words: Sequence[Span]) -> bool:
    lines = _lines(words)
    return words[-1].end - words[0].start <= CUE_SECONDS and all(width(line) <= LINE_CHARACTERS for line in lines)


def _best_cut(words: Sequence[Span]) -> int:
    """Return where to cut words that do not fit: at the last short pause, not too near their start, or at the end."""
    for cut in range(len(words) - 1, len(words) // 3, -1):
        if words[cut].start - words[cut - 1].end >= SHORT_PAUSE_SECONDS:
            return cut
    return len(words) - 1


def _lines(words: Sequence[Span]) -> list[str]:
    """Return one line if the text is short enough, else two of nearly equal width."""
    text = joined(words)
    if width(text) <= LINE_CHARACTERS or len(words) == 1:
        return [text]
    halves = [[joined(words[:cut]), joined(words[cut:])] for cut in range(1, len(words))]
    return min(halves, key=lambda both: abs(width(both[0]) - width(both[1])))


def joined(words: Sequence[Span]) -> str:
    """Return the text of words, with spaces between those that are not glued."""
    return "".join(word.text if word.glued else f" {word.text}" for word in words).strip()
