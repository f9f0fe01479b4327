"""The report on a corpus: which rows were kept, and which were dropped for what reason."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sft_speech.errors import UserError, printable
from sft_speech.files import write_whole
from sft_speech.text.counted import counted
from sft_speech.text.normalize import Normalized
from sft_speech.text.scripts import most_common_script

logger = logging.getLogger(__name__)

_SHOWN = 3  # ids per reason in the table; the file lists them all
_COUNTS_SHOWN = 10  # letters or marks of a note
OUTSIDE = "characters outside the vocabulary"  # the reason of rows that a vocabulary cannot spell
TOO_LONG = "too long"  # the reason of rows longer than max_seconds
CUT = "sft-speech cut SOURCE --recognizer MODEL -o segments.csv"
NEW_VOCABULARY = (
    "train with `new_vocabulary: true` (SpeechT5: `new_characters: true`), or take a checkpoint that has them"
)
# What normalization changed in transcripts, by the field of `Normalized`: how it is described, and advice.
NOTES = {
    "folded": ("letters that the vocabulary lacks are written without their marks", NEW_VOCABULARY),
    "marks": ("signs of transcription are removed", "`markup: keep` keeps them as words"),
    "unknown_marks": ("brackets that no known convention explains are kept as words", "remove them from the table"),
}


class Dropped(NamedTuple):
    """A row that cannot be used."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class Note:
    """What normalization changed in the transcripts of a split.

    Args:
        counts: of each letter or mark.
        first: id of the first row of each.
        rows: rows that were changed.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    rows: int = 0

    def add(self, counts: Mapping[str, int], first: Mapping[str, str], rows: int) -> None:
        for one, count in counts.items():
            self.counts[one] = self.counts.get(one, 0) + count
        for one, id in first.items():
            self.first.setdefault(one, id)
        self.rows += rows


@dataclass
class _Split:
    rows: int = 0
    seconds: float = 0.0
    dropped: dict[str, list[Dropped]] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Note] = field(default_factory=dict)  # by NOTES

    @property
    def lost(self) -> int:
        return sum(map(len, self.dropped.values()))

    @property
    def share(self) -> float:
        return self.lost / max(1, self.rows + self.lost)


class CorpusReport:
    """The rows kept and dropped, by split: filled while corpora are read and selected, shown before step 1."""

    def __init__(self) -> None:
        self._splits: dict[str, _Split] = {}

    def _split(self, split: str) -> _Split:
        return self._splits.setdefault(split, _Split())

    def renamed(self, split: str, name: str) -> CorpusReport:
        """Return a report whose entries for ``split`` become entries of this one for ``name``."""
        other = CorpusReport()
        other._splits[split] = self._split(name)
        return other

    def drop(self, split: str, id: str, reason: str, detail: str = "") -> None:
        """Add a dropped row; ``reason`` is a short category, ``detail`` describes this row's case."""
        self._split(split).dropped.setdefault(reason, []).append(Dropped(id, reason, detail))

    def keep(self, split: str, rows: int, seconds: float) -> None:
        """Set the rows and seconds kept of a split; a later call replaces them."""
        found = self._split(split)
        found.rows, found.seconds = rows, seconds

    def complete(self, split: str, rows: int, seconds: float, shown: str, logged: bool) -> None:
        """Set the rows and seconds kept of a split once its corpus is read.

        Args:
            shown: the source as the user names it.
            logged: whether to log the dropped rows.

        Raises:
            UserError: no row is left.
        """
        self.keep(split, rows, seconds)
        if not rows:
            why = f"no row of {shown} can be used\n{self.table()}"
            raise UserError(f"corpus {split}", why, "see the reasons above")
        if logged and self.dropped(split):
            logger.warning("rows that cannot be used were dropped:\n%s", self.table())

    def missing_characters(self, split: str, missing: Counter[str]) -> None:
        """Add characters that the vocabulary lacks, with their counts."""
        self._split(split).missing.update(missing)

    def note(self, split: str, id: str, written: Normalized) -> None:
        """Add what normalization changed in a transcript, besides missing characters."""
        for kind in NOTES:
            if counts := getattr(written, kind):
                self.add_notes(split, {kind: (counts, dict.fromkeys(counts, id), 1)})

    def add_notes(self, split: str, notes: Mapping[str, Sequence[Any]]) -> None:
        """Add notes as :meth:`notes` returns them."""
        for kind, note in notes.items():
            self._split(split).notes.setdefault(kind, Note()).add(*note)

    def notes(self, split: str) -> dict[str, tuple[dict[str, int], dict[str, str], int]]:
        """Return what normalization changed in the transcripts of a split: (counts, first ids, rows) by NOTES."""
        return {kind: (note.counts, note.first, note.rows) for kind, note in self._split(split).notes.items()}

    def note_lines(self, split: str, advice: bool = False) -> list[str]:
        """Return a line for each kind of change in the transcripts of a split, perhaps with advice."""
        lines = []
        for kind, (what, do) in NOTES.items():
            note = self._split(split).notes.get(kind, Note())
            least = 2 if kind == "unknown_marks" else 1  # words in brackets that occur once may be spoken
            counts = sorted((-count, one) for one, count in note.counts.items() if count >= least)
            if not counts:
                continue
            shown = ", ".join(f"{printable(one)} {-count:,}" for count, one in counts[:_COUNTS_SHOWN])
            more = f" and {len(counts) - _COUNTS_SHOWN} more" if len(counts) > _COUNTS_SHOWN else ""
            first = next(id for one, id in note.first.items() if note.counts[one] >= least)
            line = f"{what}: {shown}{more} ({counted(note.rows, 'row')}, the first is {printable(first)})"
            lines.append(f"{line}; {do}" if advice else line)
        return lines

    def warn_of_notes(self) -> None:
        """Log what normalization changed in the transcripts of each split."""
        for split in self._splits:
            for line in self.note_lines(split, advice=True):
                logger.warning("%s: %s", printable(split), line)

    def dropped(self, split: str) -> list[Dropped]:
        """Return every row dropped from a split so far."""
        return [row for rows in self._split(split).dropped.values() for row in rows]

    def take(self, split: str) -> tuple[list[Dropped], Counter[str]]:
        """Remove a split from the report. Return its dropped rows and missing characters."""
        dropped, missing = self.dropped(split), self.missing(split)
        self._splits.pop(split)
        return dropped, missing

    def missing(self, split: str) -> Counter[str]:
        """Return the characters of a split's transcripts that the vocabulary lacks, so far."""
        return self._split(split).missing

    def table(self) -> str:
        """Return a line per split, and below it a line per reason with the first ids."""
        lines = [f"{'corpus':<30} {'rows kept':>10} {'hours':>8} {'dropped':>9} {'share':>7}"]
        for name, split in self._splits.items():
            hours = split.seconds / 3600
            lines.append(f"{printable(name):<30} {split.rows:>10,} {hours:>8.2f} {split.lost:>9,} {split.share:>7.2%}")
            for reason, rows in sorted(split.dropped.items(), key=lambda item: -len(item[1])):
                shown = ", ".join(
                    printable(f"{row.id} ({row.detail})" if row.detail else row.id) for row in rows[:_SHOWN]
                )
                more = f", and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
                lines.append(f"  {len(rows):>8,} {reason}: {shown}{more}")
            if split.missing:
                counts = ", ".join(f"{character!r} {count:,}" for character, count in split.missing.most_common(20))
                lines.append(f"  not in the vocabulary, left out of the transcripts: {counts}")
            lines += [f"  {line}" for line in self.note_lines(name)]
        return "\n".join(lines)

    def check(self, max_dropped_share: float) -> None:
        """Check that no split lost too many rows.

        Args:
            max_dropped_share: the largest accepted share of dropped rows, 0 to 1.

        Raises:
            UserError: a split lost more; the message includes the table.
        """
        for name, split in self._splits.items():
            if split.share > max_dropped_share:
                do = "fix the corpus, or raise max_dropped_share if this is what you expect"
                if 2 * len(split.dropped.get(OUTSIDE, ())) > split.lost:
                    do = f"the vocabulary lacks {most_common_script(split.missing)} letters: {NEW_VOCABULARY}"
                elif 2 * len(split.dropped.get(TOO_LONG, ())) > split.lost:
                    do = f"cut them at the ends of sentences: {CUT}; or raise max_seconds (Whisper takes at most 30 s)"
                raise UserError(
                    f"corpus {name}",
                    f"{split.lost:,} of {counted(split.rows + split.lost, 'row')} ({split.share:.1%}) cannot be used, "
                    f"more than max_dropped_share = {max_dropped_share:.1%}\n{self.table()}",
                    do,
                )

    def to_dict(self) -> dict[str, Any]:
        """Return, by split, rows and hours kept, dropped rows by reason, and characters that the vocabulary lacks."""
        return {
            name: {
                "kept": {"rows": split.rows, "hours": split.seconds / 3600},
                "dropped": {
                    "rows": split.lost,
                    "share": split.share,
                    "reasons": {
                        reason: [{"id": row.id, "detail": row.detail} for row in rows]
                        for reason, rows in sorted(split.dropped.items())
                    },
                },
                "missing_characters": dict(split.missing.most_common()),
                **{
                    kind: {one: {"count": count, "first": note.first[one]} for one, count in note.counts.items()}
                    for kind, note in split.notes.items()
                },
            }
            for name, split in self._splits.items()
        }

    def save(self, path: str | Path) -> None:
        """Write the whole report as JSON, completely or not at all."""
        write_whole(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")


def file_stem(split: str) -> str:
    """Return a file name for a split: ``train:0.1`` -> ``train_0.1``, ``dev[0.9:]`` -> ``dev_0.9-end``."""
    spelt = re.sub(r"\[([^][:]*):([^][:]*)\]", lambda part: f"_{part[1] or 'start'}-{part[2] or 'end'}", split)
    return re.sub(r"[^\w.+,=-]", "_", spelt).strip("_") or "all"


def source_name(source: str) -> str:
    """Return the name of a corpus in evaluation results: paths become absolute, ids on the Hub stay as they are."""
    return str(Path(source).resolve()) if Path(source).exists() else source
