"""Streamed corpora, whose rows are read during training and not stored on disk.

Each worker of each process's loader reads its share of the shards, collects a pool of rows (their audio still encoded),
sorts the pool by length and cuts it into batches. A batch carries its position in the stream to the main process, which
keeps track of it (:mod:`sft_speech.training.stream_plan`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from sft_speech.audio.units import samples_of
from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.errors import UserError
from sft_speech.inference.batching import cut
from sft_speech.text.normalize import Normalized
from sft_speech.training.plan import POOL_BATCHES, REPEAT, REPEATS

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
T = TypeVar("T")

POOL_BYTES = 128 << 20  # maximum of encoded audio in a pool, some 2 hours of FLAC; a worker holds two pools at a time
# With this many shards per reader, the shares are nearly equal. With fewer, parquet files are read by row group.
SHARDS_EACH = 16
TRANSCRIPTS = 2000  # rows at the beginning of a stream from which a vocabulary is built


@dataclasses.dataclass(frozen=True)
class Stream:
    """Rows that are read while they are iterated.

    Args:
        rows: rows of ``load_corpus(..., streaming=True)``.
        left_out: report of the rows that are dropped while they are read.
        judge: returns the normalized transcript of a row, and the reason why it cannot be used, or None.
        cost: returns the costs (N,) of rows in a batch from their seconds (N,); None: they are their seconds.
        language: language of all rows; None: their own, or that of the run.
    """

    rows: datasets.IterableDataset
    left_out: CorpusReport
    judge: Callable[[Row], tuple[Normalized, tuple[str, str] | None]] | None = None
    cost: Callable[[np.ndarray], np.ndarray] | None = None
    language: str | None = None

    @classmethod
    def opened(
        cls, load: Callable[..., Any], name: str, readers: int, report: CorpusReport, language: str | None = None
    ) -> Stream:
        """Open a stream.

        Args:
            load: ``load_corpus`` with the corpus's arguments.
            readers: number of workers of all processes.
            report: receives the rows that are known to be unusable.
            language: of all rows.
        """
        left_out = CorpusReport()
        rows = load(streaming=True, min_shards=SHARDS_EACH * readers, report=left_out)
        for row in left_out.take(name)[0]:
            report.drop(name, *row)
        return cls(rows, left_out, language=language)

    def named(self, row: Row) -> Row:
        """Return a row with the language of all rows, if there is one."""
        return row if self.language is None else {**row, "language": self.language}

    def transcripts(self) -> Iterator[str]:
        """Return the first transcripts, to build a vocabulary from."""
        logger.warning("the vocabulary is built from the first %d transcripts of the stream, not from all", TRANSCRIPTS)
        yield from self.first_texts(TRANSCRIPTS)

    def first_texts(self, count: int, name: str = "train") -> list[str]:
        """Return at most this many transcripts, from the beginning; ``name`` is that of the rows in ``left_out``."""
        texts = [row["text"] for row in islice(self.rows, count)]
        self.left_out.take(name)  # these rows are read again in training
        return texts

    def is_dealt(self, world: int) -> bool:
        """Return whether each process reads its own shards, which takes enough of them for nearly equal shares.

        Otherwise each process reads all shards and skips the rows of the others.
        """
        return self.rows.num_shards % world == 0 or self.rows.num_shards >= SHARDS_EACH * world

    def share(self, rank: int, world: int, dealt: bool | None = None) -> datasets.IterableDataset:
        """Return the rows of one process.

        Args:
            dealt: whether each process reads its own shards; None: see :meth:`is_dealt`.
        """
        from datasets.distributed import split_dataset_by_node

        dealt = self.is_dealt(world) if dealt is None else dealt
        return split_dataset_by_node(self.rows, rank, world, "shards" if dealt else "examples")

    def check_readers(self, world: int, workers: int) -> None:
        """Check that there are enough shards for the workers of each process; workers without one have no rows."""


class Position(NamedTuple):
    """The position of a worker in an epoch: it has handed over ``taken`` batches of the pool ``pool``.

    ``state`` is the state of ``datasets`` before the pool, as JSON; None at the beginning of the epoch.
    """

    state: str | None = None
    pool: int = 0
    taken: int = 0


class Read(NamedTuple):
    """The rows that were read for one pool."""

    state: str | None  # see Position
    rows: int
    seconds: float
    dropped: list[Dropped]
    missing: dict[str, int]  # not a Counter, which a loader that pins memory would count twice
    notes: dict[str, Any]  # of the report


class Item(NamedTuple):
    """A batch from a worker and its position; ``batch`` is None if there is nothing to train on."""

    worker: int
    batch: dict[str, Any] | None = None
    pool: int = 0
    seconds: float = 0.0
    read: Read | None = None  # with the first batch of a pool
    sources: dict[str, float] | None = None  # seconds of each, in a mix
    error: tuple[str, str, str] | None = None  # what a UserError says, which a worker cannot raise


class PooledBatches(IterableDataset):
    """The batches of one epoch of one process.

    In a loader's worker, an iteration gives the batches of the worker's shards. Within a pool, rows are shuffled,
    sorted by length and cut into batches, which are shuffled and then decoded.

    Args:
        stream: the corpus.
        rank, world: this process and their number.
        utterance: makes an utterance of (row, epoch, number); the number is a hash of the row's id.
        collate: makes a batch of utterances.
        max_batch_seconds: padded seconds per batch.
        seed: seed of the shuffling.
    """

    def __init__(
        self,
        stream: Stream,
        rank: int,
        world: int,
        utterance: Callable[[Row, int, int], Any],
        collate: Callable[[list[Any]], dict[str, Any]],
        max_batch_seconds: float,
        seed: int,
    ) -> None:
        self.stream, self.rank, self.world, self.rows = stream, rank, world, stream.share(rank, world)
        self.utterance, self.collate = utterance, collate
        self.max_batch_seconds, self.seed = max_batch_seconds, seed
        # The rows of a mix keep account of the seconds that are used.
        self.give_back: Callable[[Row], None] = getattr(self.rows, "give_back", lambda row: None)
        self.set_out(0, [Position()], -1)

    def set_out(self, epoch: int, positions: list[Position], last: int) -> None:
        """Set the starting point of the next iteration, which begins with the worker after ``last``."""
        self.epoch, self.positions, self.last = epoch, list(positions), last
        # `datasets` shuffles the shards with this number as seed; 0 would leave them in order.
        self.rows.set_epoch(1 + int(np.random.default_rng((self.seed, epoch)).integers(2**31)))

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        number = worker.id if worker else 0
        try:
            yield from self.items(number)
        except UserError as error:
            yield Item(number, error=(error.given, error.why, error.do))

    def items(self, number: int) -> Iterator[Item]:
        """Yield the batches of a worker."""
        if number <= self.last:  # a loader begins with its first worker; those up to `last` skip a turn
            yield Item(number)
        position = self.positions[number]
        for pool, (read, rows) in enumerate(one_ahead(self.pools(position.state)), start=position.pool):
            taken = position.taken if pool == position.pool else 0
            batches = self.batches(rows, number, pool) or [[]]  # perhaps none of the rows is usable
            rows.clear()  # each batch is freed once it is handed over
            for place in range(taken, len(batches)):
                batch, batches[place] = batches[place], []
                utterances = [self.made_of(row) for row in batch]
                yield Item(
                    number,
                    self.collate(utterances) if batch else None,
                    pool,
                    float(sum(row["seconds"] for row in batch)),
                    None if place else read,
                    seconds_by_source(batch),
                )

    def made_of(self, row: Row) -> Any:
        """Return the utterance of a row, whose augmentation differs each time that it comes in an epoch."""
        again = row.get("again", 0) % REPEATS * REPEAT
        return self.utterance(row, self.epoch + again, zlib.crc32(row["id"].encode()))

    def pools(self, state: str | None) -> Iterator[tuple[Read, list[Row]]]:
        """Yield pools of usable rows, each with a record of what was read for it."""
        assert self.stream.judge is not None
        self.rows.load_state_dict(None if state is None else json.loads(state))
        given = iter(self.rows)
        full = True
        while full:
            rows: list[Row] = []
            dropped: list[Dropped] = []
            missing: Counter[str] = Counter()
            report = CorpusReport()
            seconds, size, full = 0.0, 0, False
            for row in map(self.stream.named, given):
                normalized, reason = self.stream.judge(row)
                missing.update(normalized.missing)
                report.note("train", row["id"], normalized)
                if reason is not None:
                    dropped.append(Dropped(row["id"], *reason))
                    self.give_back(row)
                    continue
                rows.append({**row, "text": normalized.text})
                seconds, size = seconds + row["seconds"], size + len(row["audio"]["bytes"] or b"")
                full = seconds >= POOL_BATCHES * self.max_batch_seconds or size >= POOL_BYTES
                if full:
                    break
            dropped += self.unreadable()
            if rows or dropped:
                yield Read(state, len(rows), seconds, dropped, dict(missing), report.notes("train")), rows
            state = json.dumps(self.rows.state_dict()) if full else None

    def unreadable(self) -> list[Dropped]:
        """Return the rows dropped while this pool was read; if every process reads all shards, only its own."""
        found, _ = self.stream.left_out.take("train")
        if self.stream.is_dealt(self.world):
            return found
        return [row for row in found if zlib.crc32(row.id.encode()) % self.world == self.rank]

    def batches(self, rows: list[Row], worker: int, pool: int) -> list[list[Row]]:
        rng = np.random.default_rng((self.seed, self.rank, self.epoch, worker, pool))
        seconds = np.array([row["seconds"] for row in rows])
        seconds = self.stream.cost(seconds) if self.stream.cost else seconds
        order = rng.permutation(len(rows))
        batches = cut(order[np.argsort(seconds[order], kind="stable")], seconds, self.max_batch_seconds)
        return [[rows[index] for index in batches[place]] for place in rng.permutation(len(batches))]


def seconds_by_source(rows: list[Row]) -> dict[str, float] | None:
    """Return the seconds of each source in the rows of a mix; None for other rows."""
    if not rows or "source" not in rows[0]:
        return None
    found: dict[str, float] = {}
    for row in rows:
        found[row["source"]] = found.get(row["source"], 0.0) + row["seconds"]
    return found


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each prepared in a thread while the previous one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def noise(seconds: float, rate: int) -> Row:
    """Return a row of noise, for the memory check."""
    import soundfile

    file = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, samples_of(seconds, rate))
    soundfile.write(file, samples.astype(np.float32), rate, format="WAV")
    audio = {"bytes": file.getvalue(), "path": None}
    return {"id": "noise", "audio": audio, "text": "", "speaker": "", "seconds": seconds, "start": None}
