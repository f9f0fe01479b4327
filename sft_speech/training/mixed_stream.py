"""Several streamed corpora as one: rows are taken from them in turn, so that each has its share of the seconds.

Each worker of each process reads its own shards of every corpus. The next row comes from the corpus that is furthest
behind its share; this keeps the shares of each worker exact to within one utterance, and they need no hours known
beforehand. An epoch ends when every corpus was read to its end; those that end earlier begin again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.errors import UserError, printable
from sft_speech.options.mixing import Part
from sft_speech.training.stream import Row, Stream

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


def mixed_stream(parts: Sequence[Part], streams: Sequence[Stream]) -> MixedStream:
    """Return the streams of P corpora as one, and log their shares."""
    lines = [f"{'source':<30} {'shards':>8} {'weight':>8} {'share':>7}"]
    mixed = MixedStream(Shards(streams), LeftOut(parts, streams), parts=tuple(parts), streams=tuple(streams))
    for part, stream, share in zip(parts, streams, mixed.shares, strict=True):
        lines.append(f"{printable(part.name):<30} {stream.rows.num_shards:>8,} {part.weight:>8g} {share:>7.2%}")
    logger.info("%s", "\n".join(lines))
    return mixed


class LeftOut(CorpusReport):
    """The rows that streams drop while they are read, with ids that name their corpora."""

    def __init__(self, parts: Sequence[Part], streams: Sequence[Stream]) -> None:
        super().__init__()
        self.names, self.reports = [part.name for part in parts], [stream.left_out for stream in streams]

    def take(self, split: str) -> tuple[list[Dropped], Counter[str]]:
        dropped: list[Dropped] = []
        for name, report in zip(self.names, self.reports, strict=True):
            dropped += [row._replace(id=f"{name}/{row.id}") for row in report.take(name)[0]]
        return dropped, Counter()


class Shards:
    """The number of shards of several streams together."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.num_shards = sum(stream.rows.num_shards for stream in streams)


@dataclasses.dataclass(frozen=True)
class MixedStream(Stream):
    """Rows of several streams, whose ids begin with ``NAME/``.

    Args:
        parts: the P corpora, each with a weight.
        streams: the stream of each.
    """

    parts: tuple[Part, ...] = ()
    streams: tuple[Stream, ...] = ()

    @property
    def shares(self) -> np.ndarray:
        """The share of each corpus (P,) in the seconds."""
        weights = np.array([part.weight for part in self.parts], dtype=float)
        return weights / weights.sum()

    def first_texts(self, count: int, name: str = "") -> list[str]:
        share = -(-count // len(self.parts))
        named = zip(self.parts, self.streams, strict=True)
        return [text for part, stream in named for text in stream.first_texts(share, part.name)]

    def is_dealt(self, world: int) -> bool:
        return all(stream.is_dealt(world) for stream in self.streams)

    def share(self, rank: int, world: int, dealt: bool | None = None) -> Any:
        every = self.is_dealt(world)
        opened = [partial(stream.share, rank, world, every) for stream in self.streams]
        return Interleaved(self.parts, opened, self.shares, [stream.named for stream in self.streams])

    def check_readers(self, world: int, workers: int) -> None:
        """Check that each worker of each process has rows of every corpus.

        Raises:
            UserError: a corpus has fewer shards than readers.
        """
        for part, stream in zip(self.parts, self.streams, strict=True):
            shards = min(stream.share(rank, world, self.is_dealt(world)).num_shards for rank in range(world))
            if shards < workers:
                why = f"it has shards for {shards} of {workers} workers, and each mixes its own"
                raise UserError(f"sources: {printable(part.name)}", why, f"set --dataloader_num_workers {shards}")


class Interleaved:
    """The rows of one reader of a mix, with the state of ``datasets`` streams.

    Args:
        parts: the P corpora.
        opened: functions that open the share of each corpus from its beginning.
        shares: (P,) of the seconds.
        named: functions that give a row of each corpus its language.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        opened: Sequence[Callable[[], datasets.IterableDataset]],
        shares: np.ndarray,
        named: Sequence[Callable[[Row], Row]],
    ) -> None:
        self.parts, self.opened, self.shares, self.named = parts, opened, shares, named
        self.epoch = 0
        self.load_state_dict(None)

    def set_epoch(self, epoch: int) -> None:
        """Set the seed of the order of the shards."""
        self.epoch = epoch

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Continue from a state; None is the beginning of an epoch."""
        count = len(self.parts)
        zeros = [0] * count
        state = state or {"passes": zeros, "used": zeros, "given": zeros, "readers": [None] * count}
        self.passes, self.used, self.states = [*state["passes"]], [*state["used"]], [*state["readers"]]
        self.given = np.array(state["given"], dtype=float)
        self.rows: list[datasets.IterableDataset] = []
        self.begun = [False] * count  # whether a reader has given a row since it was opened

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all readers, how often each has ended, the rows of it used since, and its seconds."""
        return {
            "passes": [*self.passes],
            "used": [*self.used],
            "given": self.given.tolist(),
            "readers": [
                one.state_dict() if begun else state
                for one, begun, state in zip(self.rows, self.begun, self.states, strict=True)
            ],
        }

    def give_back(self, row: Row) -> None:
        """Count a row as not given, because it cannot be used."""
        self.given[row["place"]] -= row["seconds"]
        self.used[row["place"]] -= 1

    def open(self, place: int) -> Iterator[Row]:
        """Return the rows of a pass over a corpus; its shards come in another order each time."""
        rows = self.rows[place] = self.opened[place]()
        rows.set_epoch(1 + (self.epoch + 7919 * self.passes[place]) % (2**31 - 1))
        if self.states[place] is not None:
            rows.load_state_dict(self.states[place])
        self.begun[place] = False
        return iter(rows)

    def __iter__(self) -> Iterator[Row]:
        self.rows = [opened() for opened in self.opened]
        readers = [self.open(place) for place in range(len(self.parts))]
        while True:
            # The corpus to which the next second belongs is the one furthest behind, relative to its share.
            place = int(np.argmin(self.given / self.shares))
            row = next(readers[place], None)
            if row is None:
                if not self.used[place]:  # it would never catch up
                    name = printable(self.parts[place].name)
                    why = "no row of it that a worker reads can be used"
                    raise UserError(f"sources: {name}", why, "remove it, or lower dataloader_num_workers")
                self.passes[place] += 1
                if min(self.passes) > 0:
                    return
                self.states[place], self.used[place] = None, 0
                readers[place] = self.open(place)
                continue
            part, again, self.begun[place] = self.parts[place], self.passes[place], True
            self.given[place] += row["seconds"]
            self.used[place] += 1
            more = {"id": f"{part.name}/{row['id']}", "source": part.name, "place": place, "again": again}
            yield {**self.named[place](row), **more}
