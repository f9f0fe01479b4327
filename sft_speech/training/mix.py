"""The rows of several corpora that a run is trained on, as one: the option ``sources``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of, with_columns
from sft_speech.errors import UserError, printable
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.mixing import Part
from sft_speech.training.draw import MixedDraw, are_plain, shares_of
from sft_speech.training.rows import Rows, StoredRows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MixedRows(StoredRows):
    """The stored rows of several corpora, one corpus after the other; their ids begin with ``NAME/``.

    Args:
        parts: the P corpora.
        sizes: (P,) number of rows of each.
    """

    parts: tuple[Part, ...] = ()
    sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Part], rows: Sequence[StoredRows]) -> MixedRows:
        """Put the rows of corpora together."""
        import datasets

        table = datasets.concatenate_datasets([one.table for one in rows])
        return cls(table, rows[0].cost, tuple(parts), tuple(len(one.table) for one in rows))

    @classmethod
    def apart(cls, parts: Sequence[Part], tables: Sequence[Dataset]) -> MixedRows:
        """Put corpora together whose ids may collide, and whose speakers may only have the same name."""
        speakers = own_speakers(parts, [column_of(table, "speaker") for table in tables])
        rows = []
        for part, table, speaker in zip(parts, tables, speakers, strict=True):
            ids = pc.binary_join_element_wise(f"{part.name}/", column_of(table, "id"), "")
            rows.append(StoredRows(with_columns(table, pa.table({"id": ids, "speaker": speaker}))))
        return cls.of(parts, rows)

    def each(self) -> Iterator[tuple[Part, StoredRows]]:
        """Yield each corpus with its rows."""
        first = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            yield part, StoredRows(self.table.select(range(first, first + size)), self.cost)
            first += size

    def first_texts(self, count: int) -> Sequence[str]:
        share = -(-count // len(self.parts))
        return [text for _, rows in self.each() for text in rows.first_texts(share)]

    def usable(self, choose: Callable[[Rows, CorpusReport], Rows], report: CorpusReport) -> MixedRows:
        """Return the usable rows of each corpus, which the report names.

        Args:
            choose: returns the usable rows; the others go to the report as those of "train".

        Raises:
            UserError: no row of a corpus can be used.
        """
        found = []
        for part, rows in self.each():
            kept = choose(rows, report.renamed("train", part.name))
            if not len(kept.table):
                given = f"sources: {printable(part.name)}"
                raise UserError(given, f"no row of it can be used\n{report.table()}", "see the reasons above")
            found.append(StoredRows(kept.table, getattr(kept, "cost", None)))
        return MixedRows.of(self.parts, found)

    def shared(self, place: Any, ids: pa.ChunkedArray) -> int:
        """Return how many of the utterances of a split are also trained on.

        Args:
            place: function that tells whether a corpus is the one that the split is of.
        """
        trained, count = column_of(self.table, "id"), 0
        for part in self.parts:
            if place(part.place.source):
                own = pc.binary_join_element_wise(f"{part.name}/", ids, "")
                count += pc.sum(pc.is_in(own, trained.combine_chunks())).as_py() or 0
        return count

    def draw(self, config: FinetuneConfig) -> MixedDraw | None:
        lengths = column_of(self.table, "seconds").to_numpy()
        own = np.split(lengths, np.cumsum(self.sizes)[:-1])
        shares = shares_of(self.parts, [one.sum() for one in own])
        draw = MixedDraw([part.name for part in self.parts], own, shares, config.seed)
        logger.info("%s", table(self.parts, own, shares, draw.passes))
        return None if are_plain(self.parts) else draw


def own_speakers(parts: Sequence[Part], speakers: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Return the speakers of each corpus; those that another source has too begin with ``NAME/``.

    Splits of one source have the same speakers.
    """
    distinct = [pc.unique(one) for one in speakers]
    found = []
    for part, own in zip(parts, speakers, strict=True):
        others = [
            names for other, names in zip(parts, distinct, strict=True) if other.place.source != part.place.source
        ]
        taken = pc.is_in(own, pa.concat_arrays([pa.array([], pa.string()), *others]))
        named = pc.binary_join_element_wise(f"{part.name}/", own, "")
        found.append(pc.if_else(pc.and_(taken, pc.not_equal(own, "")), named, own))
    return found


def table(parts: Sequence[Part], seconds: Sequence[np.ndarray], shares: np.ndarray, passes: np.ndarray) -> str:
    """Return a line for each source: what there is of it, and what an epoch has."""
    lines = [f"{'source':<30} {'utterances':>10} {'hours':>8} {'weight':>8} {'share':>7} {'passes per epoch':>16}"]
    for part, own, share, often in zip(parts, seconds, shares.tolist(), passes.tolist(), strict=True):
        weight = "by hours" if part.weight is None else f"{part.weight:g}"
        weight = f"T = {part.temperature:g}" if part.temperature is not None else weight
        shown = f"{printable(part.name):<30} {len(own):>10,} {own.sum() / 3600:>8.2f} {weight:>8}"
        limit = "" if part.max_hours is None else f"  (a subset, max_hours {part.max_hours:g})"
        lines.append(f"{shown} {share:>7.2%} {often:>16.2f}{limit}")
    return "\n".join(lines)
