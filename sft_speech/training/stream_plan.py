"""The batches of a run on a stream, with the positions of its workers and a report of the rows read."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.training.plan import Plan
from sft_speech.training.stream import Item, PooledBatches, Position, Read, Stream, noise

logger = logging.getLogger(__name__)

FILE = "stream_{}.json"  # progress of a process, in a checkpoint
JUDGED_AFTER = 1000  # rows after which too many unusable ones end the run


@dataclasses.dataclass
class Place:
    """The progress of a process."""

    epoch: int = 0
    last: int = -1  # worker of the last item in this epoch
    positions: list[Position] = dataclasses.field(default_factory=list)  # of the workers
    batches: int = 0
    ends: list[int] = dataclasses.field(default_factory=list)  # batches at the end of each epoch
    seconds: float = 0.0  # of audio in the batches
    rows: int = 0  # read in the first epoch
    read: float = 0.0  # seconds of those rows
    sources: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds in the batches, of a mix


class StreamPlan(Plan):
    """The batches of a whole run, read from a stream.

    The workers of a process go through an epoch together: their whole share is read before any row is repeated.
    Processes don't wait for each other: each begins its next epoch when its share is read. Shares are as equal as
    the shards.

    Args:
        stream: the corpus, with ``judge`` set.
        report: receives the rows read and dropped in the first epoch.
        max_dropped_share: a larger share of unusable rows ends the run.
        max_batch_seconds: padded seconds per batch and process.
        max_seconds: length of the longest utterance.
        batches: number of batches in the run, per process.
        seed: seed of the shuffling.
        rank, world: rank of this process, and number of processes.
    """

    def __init__(
        self,
        stream: Stream,
        report: CorpusReport,
        max_dropped_share: float,
        max_batch_seconds: float,
        *,
        max_seconds: float,
        batches: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.stream, self.report, self.max_dropped_share = stream, report, max_dropped_share
        self.max_batch_seconds, self.batches, self.seed = max_batch_seconds, batches, seed
        self.rank, self.world = rank, world
        # The worst batch is synthetic: utterances of equal length that fill it.
        self.fill = max(1, math.ceil(max_batch_seconds / max_seconds))
        self.seconds = np.array([max_batch_seconds / self.fill if self.fill > 1 else max_seconds])
        self.place = Place()
        self.readers: list[int] = []  # processes and workers of each, once they are known

    def loader(self, utterances: Any, **options: Any) -> StreamLoader:
        """Return an iterable of the batches.

        Args:
            utterances: its ``made_of(row, epoch, number)`` makes one; the number is a hash of the row's id.
        """
        before, self.readers = self.readers, [self.world, max(1, options["num_workers"])]
        self.stream.check_readers(*self.readers)
        if not before:
            self.place.positions = [Position()] * self.readers[1]
        elif before != self.readers:
            logger.warning(
                "resumed with %d processes x %d workers, before %d x %d: the stream continues with its next epoch",
                *(*self.readers, *before),
            )
            self.next_epoch()
        if not self.stream.is_dealt(self.world):
            shown = f"{self.stream.rows.num_shards} shards cannot be dealt out to {self.world} processes"
            logger.warning("%s: each of them reads the whole stream, and uses a part of it", shown)
        batches = PooledBatches(
            self.stream,
            self.rank,
            self.world,
            utterances.made_of,
            options.pop("collate_fn"),
            self.max_batch_seconds,
            self.seed,
        )
        return StreamLoader(self, batches, options)

    def take(self, item: Item) -> dict[str, Any] | None:
        """Record that an item was taken from the loader; return its batch, if there is one.

        Raises:
            UserError: a worker cannot go on.
        """
        place = self.place
        if item.error is not None:
            raise UserError(*item.error)
        if item.read is None and item.batch is None:  # a skipped turn
            return None
        if item.read is not None:
            place.positions[item.worker] = Position(item.read.state, item.pool)
            if place.epoch == 0:
                self.note(item.read)
        position = place.positions[item.worker]
        place.positions[item.worker] = position._replace(taken=position.taken + 1)
        place.last = item.worker
        place.batches += item.batch is not None
        place.seconds += item.seconds
        for name, seconds in (item.sources or {}).items():
            place.sources[name] = place.sources.get(name, 0.0) + seconds
        return item.batch

    def note(self, read: Read) -> None:
        """Add a pool to the report.

        Raises:
            UserError: too many rows cannot be used.
        """
        for row in read.dropped:
            self.report.drop("train", *row)
        self.report.missing_characters("train", Counter(read.missing))
        self.report.add_notes("train", read.notes)
        self.place.rows, self.place.read = self.place.rows + read.rows, self.place.read + read.seconds
        self.report.keep("train", self.place.rows, self.place.read)
        if self.place.rows + len(self.report.dropped("train")) >= JUDGED_AFTER:
            self.report.check(self.max_dropped_share)

    def end_epoch(self) -> None:
        """End the current epoch and begin the next.

        Raises:
            UserError: the epoch had no batch for this process, or too many rows of the first one couldn't be used.
        """
        place = self.place
        if place.batches == (place.ends[-1] if place.ends else 0):
            why = f"no usable row of it is left for process {self.rank + 1} of {self.world}"
            raise UserError(
                "the streamed corpus", f"{why}\n{self.report.table()}", "see above, or launch fewer processes"
            )
        if place.epoch == 0:
            self.report.check(self.max_dropped_share)
            logger.info("the first epoch has %d batches:\n%s", place.batches, self.report.table())
            self.report.warn_of_notes()
            if place.sources:
                logger.info("hours of each source: %s", hours_of(place.sources))
        self.next_epoch()

    def next_epoch(self) -> None:
        self.place.ends.append(self.place.batches)
        self.place.epoch, self.place.last = self.place.epoch + 1, -1
        self.place.positions = [Position()] * self.readers[1]

    def epochs(self, batches: int) -> float:
        """Return the passes over the corpus, estimated from the length of the previous epoch; 0 in the first."""
        ends = [0, *self.place.ends]
        if len(ends) == 1:
            return 0.0
        return len(ends) - 1 + min(0.99, (batches - ends[-1]) / max(1, ends[-1] - ends[-2]))

    def hours(self, batches: int) -> float:
        """Return the hours of audio, as if all processes had as much as this one."""
        return self.place.seconds * self.world / 3600

    def worst(self) -> list[int]:
        return [0] * self.fill

    def rehearsal(self, utterances: Any) -> list[Any]:
        return [utterances.made_of(noise(float(self.seconds[0]), utterances.rate), 0, 0)] * self.fill

    def save(self, checkpoint: Path, batches: int) -> None:
        kept = dataclasses.asdict(self.place) | {
            "dropped": self.report.dropped("train"),
            "missing": self.report.missing("train"),
            "notes": self.report.notes("train"),
            "readers": self.readers,
        }
        (checkpoint / FILE.format(self.rank)).write_text(json.dumps(kept), encoding="utf-8")

    def resume(self, checkpoint: Path, batches: int) -> None:
        files = [file for rank in (self.rank, 0) if (file := checkpoint / FILE.format(rank)).is_file()]
        if not files:
            logger.warning("%s has no position in a stream: the stream is read from its beginning", checkpoint)
            return
        kept = json.loads(files[0].read_text(encoding="utf-8"))
        dropped, missing, self.readers = (kept.pop(key) for key in ("dropped", "missing", "readers"))
        notes = kept.pop("notes", {})  # older checkpoints have none
        self.place = Place(**kept)
        self.place.positions = [Position(*position) for position in kept["positions"]]
        if self.rank < self.readers[0]:  # otherwise this process is new and has read nothing
            for row in dropped:
                self.report.drop("train", *row)
            self.report.missing_characters("train", Counter(missing))
            self.report.add_notes("train", notes)
        else:
            self.place.rows, self.place.read = 0, 0.0
        self.report.keep("train", self.place.rows, self.place.read)

    def complete(self) -> None:
        report = self.report
        mine = (
            self.place.rows,
            self.place.read,
            *(get("train") for get in (report.dropped, report.missing, report.notes)),
        )
        rows, seconds, dropped, missing, notes = zip(*gather_object([mine]), strict=True)
        if self.place.sources:
            logger.info("hours of each source in the run: %s", hours_of(self.place.sources))
        self.report.take("train")
        for row in chain.from_iterable(dropped):
            self.report.drop("train", *row)
        for counts in missing:
            self.report.missing_characters("train", counts)
        for one in notes:
            self.report.add_notes("train", one)
        self.report.keep("train", sum(rows), sum(seconds))


def hours_of(seconds: Mapping[str, float]) -> str:
    """Return the hours and shares of sources, as far as this process has trained on them."""
    whole = sum(seconds.values()) or 1.0
    return ", ".join(f"{name} {own / 3600:.2f} ({own / whole:.2%})" for name, own in seconds.items())


class StreamLoader:
    """An endless iterable of batches for the trainer, epoch after epoch."""

    def __init__(self, plan: StreamPlan, batches: PooledBatches, options: dict[str, Any]) -> None:
        self.plan, self.batches, self.options = plan, batches, options

    def __len__(self) -> int:
        return self.plan.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        plan = self.plan
        while True:
            self.batches.set_out(plan.place.epoch, plan.place.positions, plan.place.last)
            for item in DataLoader(self.batches, batch_size=None, collate_fn=as_it_is, **self.options):
                if (batch := plan.take(item)) is not None:
                    yield batch
            plan.end_epoch()


def as_it_is(item: Any) -> Any:
    return item
