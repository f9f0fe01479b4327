"""The report on a corpus: which rows were kept, and which were dropped for what reason."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sft_speech.errors import UserError, printable
from sft_speech.files import write_whole

logger = logging.getLogger(__name__)

_SHOWN = 3  # ids per reason in the table; the file lists them all


class Dropped(NamedTuple):
    """A row that cannot be used."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class _Split:
    rows: int = 0
    seconds: float = 0.0
    dropped: dict[str, list[Dropped]] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

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
                raise UserError(
                    f"corpus {name}",
                    f"{split.lost:,} of {split.rows + split.lost:,} rows ({split.share:.1%}) cannot be used, "
                    f"more than max_dropped_share = {max_dropped_share:.1%}\n{self.table()}",
                    "fix the corpus, or raise max_dropped_share if this is what you expect",
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
            }
            for name, split in self._splits.items()
        }

    def save(self, path: str | Path) -> None:
        """Write the whole report as JSON, completely or not at all."""
        write_whole(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")


def file_stem(split: str) -> str:
    """Return a file name for a split: ``train:0.1`` -> ``train_0.1``."""
    return re.sub(r"[^\w.+,=-]", "_", split) or "all"


def source_name(source: str) -> str:
    """Return the name of a corpus in evaluation results: paths become absolute, ids on the Hub stay as they are."""
    return str(Path(source).resolve()) if Path(source).exists() else source
