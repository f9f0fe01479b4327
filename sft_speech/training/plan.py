"""The plan of a run: which utterances share a batch, and in which order the batches come.

A batch costs its padded seconds: the number of its utterances times the length of the longest. Every plan here is
bounded in that cost, and is a pure function of (lengths, budget, seed, epoch, world), so that a run resumes at the
exact step.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from sft_speech.inference.batching import batch_spans
from sft_speech.training import same_corpus, splits
from sft_speech.training.splits import Split

logger = logging.getLogger(__name__)
# Lengths are sorted within a pool of about this many batches per process: 100 keep padding near 1 %, while the
# utterances that share a batch still change with every epoch.
POOL_BATCHES = 100
# Added to the epoch of an utterance for each time that it came before in the same epoch, so that its augmentation and
# masks, which are seeded by (seed, epoch, utterance), differ.
REPEAT = 1 << 20
REPEATS = 1 << 12  # repeats that differ: seeds of numpy have 32 bits


class Draw(Protocol):
    """The utterances of each epoch.

    An utterance is a key ``occurrence * N + index``, where N is the number of rows, and ``occurrence`` is how often it
    came before in the same epoch. Keys are below ``copies * N``.
    """

    @property
    def copies(self) -> int:
        """Return the largest number of times that an utterance may come in an epoch."""

    @property
    def record(self) -> dict[str, Any]:
        """Return what identifies it, besides the rows, to detect a run resumed with another one."""

    def keys(self, epoch: int) -> np.ndarray:
        """Return the keys (M,) of an epoch, each once; a pure function of the epoch."""


@dataclasses.dataclass(frozen=True)
class Everything:
    """Draws each of ``count`` rows once in every epoch."""

    count: int
    copies: int = 1
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    def keys(self, epoch: int) -> np.ndarray:
        return np.arange(self.count)


class EpochPlan(Sequence[list[list[int]]]):
    """The plan of one epoch, steps x world x utterances: ``plan[step][rank]`` is a batch, the longest utterance last.

    Held in arrays: lists of lists of numbers would take ten times the memory, in every process.

    Args:
        order: (M,) keys of utterances (:class:`Draw`), those of a batch next to each other.
        spans: (steps, world, 2) begin and end of each batch in ``order``.
    """

    def __init__(self, order: np.ndarray, spans: np.ndarray) -> None:
        self.order, self.spans = order, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, step: Any) -> Any:
        if isinstance(step, slice):
            return [self[number] for number in range(*step.indices(len(self)))]
        return [self.order[begin:end].tolist() for begin, end in self.spans[step].tolist()]

    def longest(self, seconds: np.ndarray) -> np.ndarray:
        """Return the seconds (steps, world) of each batch's longest utterance, of the seconds (N,) of all rows."""
        return seconds[self.order[self.spans[..., 1] - 1] % len(seconds)]

    def padded(self, seconds: np.ndarray) -> np.ndarray:
        """Return the padded seconds (steps, world) of each batch."""
        return (self.spans[..., 1] - self.spans[..., 0]) * self.longest(seconds)

    def costliest(self, seconds: np.ndarray) -> tuple[int, int]:
        """Return the step and rank of the batch that takes the most memory: the one with the most padded seconds,
        rounded; among equals, the first one with the longest utterance.
        """
        costs = np.rint(self.padded(seconds))
        place = np.where(costs == costs.max(), self.longest(seconds), -1).argmax()
        step, rank = np.unravel_index(place, costs.shape)
        return int(step), int(rank)


def epoch_plan(seconds: np.ndarray, max_batch_seconds: float, *, seed: int, epoch: int, world: int = 1) -> EpochPlan:
    """Plan one epoch of training.

    Utterances are shuffled, sorted by length within pools, cut into batches, and dealt out in rows of ``world`` batches
    of nearly the same cost, one for each process; then the rows are shuffled. In the first epoch the costliest row
    comes first, so that memory runs out at once or never.

    Returns:
        A plan with every utterance in exactly one batch. If the number of batches is not a multiple of ``world``, the
        fullest batches are split (see :func:`_multiple_of`).

    Raises:
        ValueError: fewer utterances than processes.
    """
    if len(seconds) < world:
        raise ValueError(f"{len(seconds)} utterances cannot be shared among {world} processes")
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(seconds))
    pool = max(world, int(POOL_BATCHES * world * max(1.0, max_batch_seconds / max(float(np.mean(seconds)), 1e-3))))
    starts = list(range(0, len(order), pool))
    if len(order) - starts[-1] < world and len(starts) > 1:  # a remainder too small to be dealt out joins the last pool
        starts.pop()
    pools = []
    for start, stop in pairwise([*starts, len(order)]):
        chunk = order[start:stop]
        order[start:stop] = chunk[np.argsort(seconds[chunk], kind="stable")]
        spans = _multiple_of(batch_spans(seconds[order[start:stop]], max_batch_seconds), world)
        pools.append(start + np.array(spans).reshape(-1, world, 2))
    steps = np.concatenate(pools)
    plan = EpochPlan(order.astype(np.int32), steps[rng.permutation(len(steps))])
    if epoch == 0:
        first = plan.costliest(seconds)[0] + 1
        plan.spans[:first] = np.roll(plan.spans[:first], 1, axis=0)
    return plan


def _multiple_of(spans: list[tuple[int, int]], world: int) -> list[tuple[int, int]]:
    """Halve the batches with the most utterances until the number of batches is a multiple of ``world``.

    If all batches hold a single utterance, the first ones are repeated, so that every process has a batch.
    """
    while len(spans) % world:
        fullest = max(range(len(spans)), key=lambda place: spans[place][1] - spans[place][0])
        begin, end = spans[fullest]
        if end - begin == 1:
            return spans[: -len(spans) % world] + spans
        half = begin + (end - begin) // 2
        spans[fullest : fullest + 1] = [(begin, half), (half, end)]
    return spans


@dataclasses.dataclass(frozen=True)
class Place:
    """The position of a run between two splits.

    Args:
        epoch: the current epoch.
        left: keys of the utterances still to come in this epoch; None for all. Those of the next epoch have
            ``copies * N`` added, and so on (:class:`Draw`).
        span: how many epochs ``left`` reaches into.
    """

    epoch: int = 0
    left: np.ndarray | None = None
    span: int = 1

    def next(self) -> Place:
        return Place(self.epoch + self.span)

    def epochs(self, utterances: int) -> float:
        """Return the number of epochs done, if an epoch has so many utterances."""
        return self.epoch if self.left is None else self.epoch + self.span - len(self.left) / utterances


def rest_of_epoch(seconds: np.ndarray, split: Split, place: Place, draw: Draw) -> tuple[Place, EpochPlan]:
    """Plan the rest of an epoch; with fewer utterances than processes, the next epoch is added to it."""
    count = len(seconds)
    left, span = draw.keys(place.epoch) if place.left is None else place.left, place.span
    while len(left) < split.world:
        left, span = np.concatenate([left, span * count * draw.copies + draw.keys(place.epoch + span)]), span + 1
    given = {"seed": split.seed, "epoch": place.epoch, "world": split.world}
    plan = epoch_plan(seconds[left % count], split.max_batch_seconds, **given)
    return Place(place.epoch, left, span), EpochPlan(left[plan.order], plan.spans)


def after(seconds: np.ndarray, split: Split, place: Place, draw: Draw) -> Place:
    """Return the position after all batches of a split, starting from ``place``."""
    batches = split.batches
    while batches > 0:
        place, plan = rest_of_epoch(seconds, split, place, draw)
        if batches < len(plan):
            trained = [plan.order[begin:end] for begin, end in plan.spans[:batches].reshape(-1, 2)]
            left = np.setdiff1d(plan.order, np.concatenate(trained))
            return dataclasses.replace(place, left=left)
        batches, place = batches - len(plan), place.next()
    return place


class Plan(Protocol):
    """The batches of one process in a whole run, as the trainer needs them."""

    max_batch_seconds: float
    seconds: np.ndarray  # of its utterances
    batches: int  # of the whole run

    def loader(self, utterances: Any, **options: Any) -> Any:
        """Return an iterable of the batches, whose length is their number.

        Args:
            utterances: the training data of the task.
            options: options of :class:`torch.utils.data.DataLoader`, including ``collate_fn``.
        """

    def epochs(self, batches: int) -> float:
        """Return the passes over the corpus after ``batches`` batches."""

    def hours(self, batches: int) -> float:
        """Return the hours of audio in ``batches`` batches of each process."""

    def worst(self) -> list[int]:
        """Return the indices in `seconds` of the utterances that make the costliest batch."""

    def rehearsal(self, utterances: Any) -> list[Any]:
        """Return the utterances of the costliest batch, not collated yet."""

    def resume(self, checkpoint: Path, batches: int) -> None:
        """Continue after so many batches, from what `save` wrote; call it before the loader is made."""

    def save(self, checkpoint: Path, batches: int) -> None:
        """Write the state that does not follow from the number of batches done."""

    def complete(self) -> None:
        """Merge what the processes know about the corpus; called when the run ends."""
        return None


class BatchPlan(Plan):
    """The batches of a whole run, as a batch sampler for one process.

    Epochs follow each other seamlessly: an optimizer step may take its last micro-batches from the next epoch, and
    batch ``n`` of the run is the same however often the run was interrupted. When resumed with another split
    (:class:`~sft_speech.training.splits.Split`), the run continues with the rest of its epoch.

    Args:
        seconds: (N,) length of every utterance.
        max_batch_seconds: padded seconds per batch and process.
        batches: number of batches in the run, per process.
        seed: seed of the shuffling.
        rank, world: rank of this process, and number of processes.
        accumulation: batches of this process in an optimizer step.
        max_epochs: epochs after which the run ends; None if ``batches`` decides it.
        corpus: its :func:`same_corpus.identity`, to detect a run resumed with another corpus.
        draw: the utterances of each epoch; None for all of them.

    Attributes:
        done: batches that a resumed run skips.
    """

    def __init__(
        self,
        seconds: Sequence[float] | np.ndarray,
        max_batch_seconds: float,
        *,
        batches: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        max_epochs: float | None = None,
        corpus: dict[str, Any] | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.corpus = corpus if rank == 0 else None
        self.seconds = np.asarray(seconds, dtype=float)
        self.draw: Draw = draw or Everything(len(self.seconds))
        self.max_batch_seconds, self.batches, self.seed = max_batch_seconds, batches, seed
        self.rank, self.world, self.done = rank, world, 0
        self.accumulation, self.max_epochs = accumulation, max_epochs
        self.past: list[Split] = []  # splits of the run before this one
        self.begun, self.start = 0, Place()  # `done` and position when this split began
        self.first_whole = 0  # `done` when the first whole epoch of this split begins
        self._last: tuple[int, EpochPlan] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield batches of (epoch, utterance): the epoch decides how an utterance is augmented this time, see
        :data:`REPEAT`.
        """
        place = self.start
        left, first = self.batches - self.done, self.done - self.begun
        while left > 0:  # epochs already done are planned again to be skipped
            if place.left is None:
                plan = self.epoch(place.epoch)
            else:
                place, plan = rest_of_epoch(self.seconds, self.split(), place, self.draw)
            for step in range(first, min(len(plan), first + left)):
                yield [self.utterance(place.epoch, key) for key in plan[step][self.rank]]
            left, first, place = left - max(0, len(plan) - first), max(0, first - len(plan)), place.next()

    def utterance(self, epoch: int, key: int) -> tuple[int, int]:
        """Return (epoch, index) of a key that counts from an epoch on."""
        number, index = divmod(key, len(self.seconds))
        later, occurrence = divmod(number, self.draw.copies)
        return epoch + later + occurrence % REPEATS * REPEAT, index

    @cached_property
    def per_epoch(self) -> int:
        """Batches of the first epoch, per process."""
        return len(self.epoch(0))

    def epoch(self, epoch: int) -> EpochPlan:
        """Return the :func:`epoch_plan` of an epoch of this run; the last one is cached."""
        if self._last is None or self._last[0] != epoch:
            keys, given = self.draw.keys(epoch), {"seed": self.seed, "epoch": epoch, "world": self.world}
            plan = epoch_plan(self.seconds[keys % len(self.seconds)], self.max_batch_seconds, **given)
            self._last = epoch, EpochPlan(keys[plan.order], plan.spans)
        return self._last[1]

    def loader(self, utterances: Dataset, **options: Any) -> DataLoader:
        return DataLoader(utterances, batch_sampler=self, **options)

    def split(self, batches: int = 0) -> Split:
        """Return this run's split, with so many batches done."""
        return Split(self.world, self.seed, self.accumulation, batches, self.max_batch_seconds)

    def resume(self, checkpoint: Path, batches: int) -> None:
        self.done = batches
        if self.corpus is not None:
            same_corpus.compare(self.corpus, checkpoint)
        parts, now = splits.read(checkpoint), self.split()
        if not parts:
            return
        same = parts[-1].is_like(now)
        self.past, own = (parts[:-1], parts[-1].batches) if same else (parts, 0)
        self.begun, self.start = batches - own, Place()
        for part in self.past:
            self.start = after(self.seconds, part, self.start, self.draw)
        if not same and self.rank == 0:
            left = self.draw.keys(self.start.epoch) if self.start.left is None else self.start.left
            logger.warning("%s", now.change(parts[-1], len(left)))
        self.first_whole = self.begun
        if self.start.left is not None:
            self.start, plan = rest_of_epoch(self.seconds, now, self.start, self.draw)
            self.first_whole += len(plan)
        if self.max_epochs is not None:
            steps = round((self.batches_at(self.max_epochs) - batches) / self.accumulation)
            self.batches = batches + max(0, steps) * self.accumulation

    def save(self, checkpoint: Path, batches: int) -> None:
        if self.corpus is not None:
            same_corpus.save(self.corpus, checkpoint)
        if self.rank == 0:
            splits.write([*self.past, self.split(batches - self.begun)], checkpoint)

    def epochs(self, batches: int) -> float:
        """Return the passes over the corpus; every whole epoch counts as many batches as the first one."""
        begun, whole = self._epochs
        if batches < self.first_whole:
            return begun + (batches - self.begun) / (self.first_whole - self.begun) * (whole - begun)
        return whole + (batches - self.first_whole) / self.per_epoch

    def batches_at(self, epochs: float) -> float:
        """Return the number of batches in so many passes over the corpus."""
        begun, whole = self._epochs
        if epochs < whole:
            return self.begun + (epochs - begun) / (whole - begun) * (self.first_whole - self.begun)
        return self.first_whole + (epochs - whole) * self.per_epoch

    @property
    def _epochs(self) -> tuple[float, float]:
        """The epochs done when this split began, and when its first whole epoch begins."""
        whole = self.start.epoch if self.start.left is None else self.start.next().epoch
        return self.start.epochs(len(self.draw.keys(self.start.epoch))), whole

    @cached_property
    def first_epoch(self) -> np.ndarray:
        """Indices (M,) of the utterances of the first epoch."""
        return self.draw.keys(0) % len(self.seconds)

    def hours(self, batches: int) -> float:
        return float(self.epochs(batches) * self.seconds[self.first_epoch].sum() / 3600)

    def padding(self) -> float:
        """Return the ratio of padding to real seconds in the first epoch."""
        return float(self.epoch(0).padded(self.seconds).sum() / self.seconds[self.first_epoch].sum() - 1)

    def worst(self) -> list[int]:
        """Return the costliest batch of the first epoch, which is in its first step."""
        step, rank = self.epoch(0).costliest(self.seconds)
        return [key % len(self.seconds) for key in self.epoch(0)[step][rank]]

    def rehearsal(self, utterances: Any) -> list[Any]:
        return [utterances[(0, index)] for index in self.worst()]
