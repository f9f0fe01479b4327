"""Transcripts in NIST's formats STM and CTM with their recordings, as TED-LIUM has them (``stm/`` beside ``sph/``).

See "Section 2: input file formats" of SCTK's sclite. A line of an STM is ``WAVEFORM CHANNEL SPEAKER START END
[<LABELS>] TEXT``, a line of a CTM ``WAVEFORM CHANNEL START DURATION WORD [CONFIDENCE [TYPE [SPEAKER]]]``; ``;;`` begins
a comment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

from sft_speech.corpora.annotated import Segment, annotated_layout, one_line, text_of, to_seconds
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped

logger = logging.getLogger(__name__)

IGNORED = "ignore_time_segment_in_scoring"
PAUSE = 0.5  # seconds between two words of a CTM that belong to different utterances
_NO_WORDS = frozenset(("non-lex", "non-speech", "misc", "noise"))  # types of a CTM
_LABELS = re.compile(r"<[^<>\s]*>(?!\S)")


class Word(NamedTuple):
    """A word of a CTM; ``whose`` are its waveform, channel and speaker."""

    whose: tuple[str, str, str]
    start: float
    end: float
    text: str


def read_stm(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the segments of an STM; those that scoring ignores are left out and counted in a warning.

    Raises:
        Unreadable: not text.
    """
    lines = [(place, line.split(maxsplit=5)) for place, line in _lines(path)]
    # Noises at the beginning of a text, such as TED-LIUM's <sil>, have the form of labels.
    labelled = all(len(fields) > 5 and _LABELS.match(fields[5]) for _, fields in lines)
    ignored = 0
    for place, fields in lines:
        text = "".join(fields[5:])
        if fields[2:3] == ["inter_segment_gap"] or IGNORED in text.lower():
            ignored += 1
            continue
        try:
            waveform, channel, speaker, start, end = fields[:5]
            times = to_seconds(start), to_seconds(end)
        except ValueError:
            yield Dropped(place, "unreadable row", "not WAVEFORM CHANNEL SPEAKER START END TEXT")
            continue
        text = one_line(_LABELS.sub("", text, count=1) if labelled else text)
        yield Segment(text, *times, speaker, (waveform,), channel)
    if ignored:
        logger.warning("%s: %d segments marked %s are left out", path, ignored, IGNORED)


def read_ctm(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the utterances of a CTM: the words of one speaker without a pause of :data:`PAUSE` between them.

    Raises:
        Unreadable: not text.
    """
    words: list[Word] = []
    for place, line in _lines(path):
        fields = line.split()
        try:
            waveform, channel, start, duration, text = fields[:5]
            at = to_seconds(start)
            word = Word((waveform, channel, "".join(fields[7:8])), at, at + to_seconds(duration), text)
        except ValueError:
            yield Dropped(place, "unreadable row", "not WAVEFORM CHANNEL START DURATION WORD")
            continue
        if "".join(fields[6:7]).lower() not in _NO_WORDS:
            words.append(word)
    utterance: list[Word] = []
    for word in sorted(words, key=lambda word: (word.whose, word.start)):
        if utterance and (word.whose != utterance[0].whose or word.start - utterance[-1].end > PAUSE - 1e-6):
            yield _joined(utterance)
            utterance = []
        utterance.append(word)
    if utterance:
        yield _joined(utterance)


def _joined(words: list[Word]) -> Segment:
    waveform, channel, speaker = words[0].whose
    text, end = " ".join(word.text for word in words), max(word.end for word in words)
    return Segment(text, words[0].start, end, speaker, (waveform,), channel)


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """Yield place and content of the lines that are no comments."""
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield f"line {number}", line


STM = annotated_layout("NIST's STM with its recordings (stm/a.stm, sph/a.sph)", (".stm",), read_stm, True)
CTM = annotated_layout("NIST's CTM with its recordings (a.ctm, a.sph)", (".ctm",), read_ctm, True)
