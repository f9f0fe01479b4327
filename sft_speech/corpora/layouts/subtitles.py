"""Subtitles (SRT, WebVTT) with their recordings: ``talk.srt`` or ``talk.en.vtt`` beside ``talk.mp4``.

See "WebVTT: The Web Video Text Tracks Format" (W3C). Marks of style are removed. What may be spoken or not is kept: the
dash before a speaker's turn, and names before a colon. Cues that overlap are dropped: their times are not their words'.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from sft_speech.corpora.annotated import Segment, Unreadable, annotated_layout, one_line, text_of
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped

OVERLAP = 0.1  # seconds that cues may overlap by: rounding, or a frame of the video
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_STYLE = re.compile(  # tags of HTML and WebVTT, times of words in WebVTT, overrides of Advanced SubStation
    r"</?(?:[ibu]|font|c|v|lang|ruby|rt)(?:[.\s][^<>]*)?>|<\d[\d:.]*>|\{\\[^{}]*\}", re.IGNORECASE
)
_LANGUAGE = re.compile(r"\.[a-z]{2,3}(?:[-_][A-Za-z0-9]+)*", re.ASCII)


class Cue(NamedTuple):
    """A cue: its number in the file, its times in seconds, and its lines."""

    number: int
    start: float
    end: float
    lines: list[str]


def read(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the cues that have text. The speaker is that of a voice tag, if a cue has one.

    Raises:
        Unreadable: not text, or captions that roll.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    language = _LANGUAGE.fullmatch(os.path.splitext(stem)[1])
    stems = (stem, os.path.splitext(stem)[0]) if language else (stem,)
    vtt = path.lower().endswith(".vtt")
    wrong: list[Dropped] = []
    cues = sorted(_cues(text_of(path), vtt, wrong), key=lambda cue: (cue.start, cue.end))
    yield from wrong
    if sum(before.lines[-1] == cue.lines[0] for before, cue in pairwise(cues)) > max(2, len(cues) / 3):
        raise Unreadable("captions that roll: most lines are in two cues, so their times are not those of their words")
    overlapping = _overlapping(cues)
    for cue in cues:
        voices = set(_VOICE.findall("\n".join(cue.lines)))
        text = one_line(_STYLE.sub("", "\n".join(cue.lines)))
        text = one_line(html.unescape(text)) if vtt else text
        if cue.end <= cue.start:
            yield Dropped(f"cue {cue.number}", "bad segment", f"it ends at {cue.end:.2f} s, its start")
        elif cue.number in overlapping:
            yield Dropped(f"cue {cue.number}", "overlapping cues", f"{cue.start:.2f} to {cue.end:.2f} s")
        elif len(voices) > 1:
            yield Dropped(f"cue {cue.number}", "several speakers", ", ".join(sorted(voices)))
        elif text:
            yield Segment(text, cue.start, cue.end, one_line("".join(voices)), stems)


def _cues(text: str, vtt: bool, wrong: list[Dropped]) -> Iterator[Cue]:
    """Yield the cues that have lines, numbered from 1; blocks without times (notes, styles) are skipped.

    Args:
        wrong: receives blocks with times that cannot be read.
    """
    number = 0
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip("\n").split("\n")
        if "-->" not in block or (vtt and lines[0].startswith("NOTE")):
            continue
        number += 1
        place = next((place for place, line in enumerate(lines[:2]) if _TIMES.fullmatch(line)), -1)
        found = _TIMES.fullmatch(lines[place])
        shown = [line.strip() for line in lines[place + 1 :] if line.strip()]
        if found is None or any("-->" in line for line in shown):
            wrong.append(Dropped(f"cue {number}", "unreadable row", "not a number, a line of times, lines of text"))
        elif shown:
            yield Cue(number, _seconds(found.groups()[:4]), _seconds(found.groups()[4:]), shown)


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return int(hours) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction}")


def _overlapping(cues: list[Cue]) -> set[int]:
    """Return the numbers of the cues, sorted by their starts, of which another one has a part."""
    found = set()
    last: Cue | None = None  # of those so far, the one that ends last
    for cue in cues:
        if cue.end <= cue.start:
            continue
        if last is not None and last.end - cue.start > OVERLAP:
            found |= {last.number, cue.number}
        if last is None or cue.end > last.end:
            last = cue
    return found


LAYOUT = annotated_layout("subtitles with their recordings (a.srt or a.vtt, a.mp3)", (".srt", ".vtt"), read)
