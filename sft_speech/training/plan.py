"""Which utterances share a batch, and in which order the batches come.

A batch costs its padded seconds: utterances times the longest of them. Every plan here is bounded in that cost, and is
a pure function of (lengths, budget, seed, epoch, world), so that a run resumes to the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from sft_speech.training import same_corpus

# Lengths are sorted within a pool of about this many batches per process: 100 keep padding near 1 %, while who meets
# whom in a batch still changes with every epoch.
POOL_BATCHES = 100


def cut(order: Iterable[int], seconds: np.ndarray, max_batch_seconds: float) -> list[list[int]]:
    """Cuts utterances, already in order, into batches of at most ``max_batch_seconds`` padded seconds.

    An utterance longer than the budget gets a batch of its own.
    """
    ordered = np.fromiter(order, int)
    return [ordered[begin:end].tolist() for begin, end in _spans(seconds[ordered], max_batch_seconds)]


def _spans(seconds: np.ndarray, max_batch_seconds: float) -> list[tuple[int, int]]:
    """Where the batches begin and end, of utterances in order."""
    spans: list[tuple[int, int]] = []
    begin, longest = 0, 0.0
    for place, length in enumerate(seconds.tolist()):  # numpy's numbers take five times as long, one by one
        longest_with = length if length > longest else longest
        if place > begin and (place - begin + 1) * longest_with > max_batch_seconds:
            spans.append((begin, place))
            begin, longest_with = place, length
        longest = longest_with
    return [*spans, (begin, len(seconds))] if len(seconds) else spans


def sorted_batches(seconds: Sequence[float] | np.ndarray, max_batch_seconds: float) -> list[list[int]]:
    """The plan of evaluation: every utterance once, the longest first, so that memory runs short at once or never."""
    lengths = np.asarray(seconds, dtype=float)
    return cut(np.argsort(-lengths, kind="stable"), lengths, max_batch_seconds)


class EpochPlan(Sequence[list[list[int]]]):
    """The plan of one epoch, steps x world x utterances: ``plan[step][rank]`` is a batch, the longest utterance last.

    Held in arrays: lists of lists of numbers would take ten times the memory, in every process.

    Args:
        order: (N,) utterances, those of a batch side by side.
        spans: (steps, world, 2) where each batch begins and ends in ``order``.
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
        """Seconds (steps, world) of each batch's longest utterance."""
        return seconds[self.order[self.spans[..., 1] - 1]]

    def padded(self, seconds: np.ndarray) -> np.ndarray:
        """Padded seconds (steps, world) of each batch."""
        return (self.spans[..., 1] - self.spans[..., 0]) * self.longest(seconds)

    def costliest(self, seconds: np.ndarray) -> tuple[int, int]:
        """Step and rank of the batch that takes most memory: of those with most padded seconds, to the second, the
        first one with the longest utterance.
        """
        costs = np.rint(self.padded(seconds))
        place = np.where(costs == costs.max(), self.longest(seconds), -1).argmax()
        step, rank = np.unravel_index(place, costs.shape)
        return int(step), int(rank)


def epoch_plan(seconds: np.ndarray, max_batch_seconds: float, *, seed: int, epoch: int, world: int = 1) -> EpochPlan:
    """The plan of one epoch of training.

    Shuffled, sorted by length within pools, cut into batches, dealt out in rows of ``world`` batches of nearly the same
    cost (one for each process), the rows shuffled. In the first epoch the costliest row comes first: memory runs short
    at once or never.

    Returns:
        every utterance in exactly one batch; where the number of batches is no multiple of ``world``, the fullest
        batches are split (see :func:`_multiple_of`).

    Raises:
        ValueError: fewer utterances than processes.
    """
    if len(seconds) < world:
        raise ValueError(f"{len(seconds)} utterances can't be shared among {world} processes")
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(seconds))
    pool = max(world, int(POOL_BATCHES * world * max(1.0, max_batch_seconds / max(float(np.mean(seconds)), 1e-3))))
    starts = list(range(0, len(order), pool))
    if len(order) - starts[-1] < world and len(starts) > 1:  # a rest too small to be dealt out joins the last pool
        starts.pop()
    pools = []
    for start, stop in pairwise([*starts, len(order)]):
        chunk = order[start:stop]
        order[start:stop] = chunk[np.argsort(seconds[chunk], kind="stable")]
        spans = _multiple_of(_spans(seconds[order[start:stop]], max_batch_seconds), world)
        pools.append(start + np.array(spans).reshape(-1, world, 2))
    steps = np.concatenate(pools)
    plan = EpochPlan(order.astype(np.int32), steps[rng.permutation(len(steps))])
    if epoch == 0:
        first = plan.costliest(seconds)[0] + 1
        plan.spans[:first] = np.roll(plan.spans[:first], 1, axis=0)
    return plan


def _multiple_of(spans: list[tuple[int, int]], world: int) -> list[tuple[int, int]]:
    """Splits the batches with most utterances in halves until their number is a multiple of ``world``.

    Where all hold but one utterance, the first ones come twice: no utterance is left out, no process without a batch.
    """
    while len(spans) % world:
        fullest = max(range(len(spans)), key=lambda place: spans[place][1] - spans[place][0])
        begin, end = spans[fullest]
        if end - begin == 1:
            return spans[: -len(spans) % world] + spans
        half = begin + (end - begin) // 2
        spans[fullest : fullest + 1] = [(begin, half), (half, end)]
    return spans


class Plan(Protocol):
    """The batches of one process in a whole run, as the trainer wants them."""

    max_batch_seconds: float
    seconds: np.ndarray  # of its utterances

    def loader(self, utterances: Any, **options: Any) -> Any:
        """What gives the batches, one after the other; as many as its length says.

        Args:
            utterances: the training data of the job.
            options: of :class:`torch.utils.data.DataLoader`, ``collate_fn`` among them.
        """

    def epochs(self, batches: int) -> float:
        """Passes over the corpus after so many batches."""

    def hours(self, batches: int) -> float:
        """Of audio in so many batches of each process."""

    def worst(self) -> list[int]:
        """Places in `seconds` of the utterances that make the costliest batch."""

    def rehearsal(self, utterances: Any) -> list[Any]:
        """That batch, not collated yet."""

    def resume(self, checkpoint: Path, batches: int) -> None:
        """Goes on after so many batches of the run, and what `save` wrote; before the loader is made."""

    def save(self, checkpoint: Path) -> None:
        """Writes what the number of batches does not tell."""
        return None

    def complete(self) -> None:
        """Brings together, when the run ends, what the processes know of the corpus."""
        return None


class BatchPlan(Plan):
    """The batches of a whole run, as a batch sampler for one process.

    Epochs follow each other without a seam, so that an optimizer step may take its last micro-batches from the next
    epoch, and position ``n`` of the run is the same however often the run was interrupted.

    Args:
        seconds: (N,) length of every utterance.
        max_batch_seconds: padded seconds per batch and process.
        batches: how many batches the run has, per process.
        seed: of the shuffling.
        rank, world: this process and their number.
        corpus: what :func:`same_corpus.identity` says of it, to tell when a run is resumed with another one.

    Attributes:
        done: batches of the run that need not come again.
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
        corpus: dict[str, Any] | None = None,
    ) -> None:
        self.corpus = corpus if rank == 0 else None
        self.seconds = np.asarray(seconds, dtype=float)
        self.max_batch_seconds, self.batches, self.seed = max_batch_seconds, batches, seed
        self.rank, self.world, self.done = rank, world, 0
        self._last: tuple[int, EpochPlan] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yields batches of (epoch, utterance): the epoch decides how an utterance is augmented this time."""
        left, epoch, first = self.batches - self.done, 0, self.done
        while first >= len(self.epoch(epoch)) and left > 0:  # an epoch that is done costs its plan
            first, epoch = first - len(self.epoch(epoch)), epoch + 1
        while left > 0:
            plan = self.epoch(epoch)
            for step in range(first, min(len(plan), first + left)):
                yield [(epoch, index) for index in plan[step][self.rank]]
            left, epoch, first = left - (len(plan) - first), epoch + 1, 0

    @cached_property
    def per_epoch(self) -> int:
        """Batches of the first epoch, per process."""
        return len(self.epoch(0))

    def epoch(self, epoch: int) -> EpochPlan:
        """:func:`epoch_plan` of one epoch of this run; the last one is remembered."""
        if self._last is None or self._last[0] != epoch:
            given = {"seed": self.seed, "epoch": epoch, "world": self.world}
            self._last = epoch, epoch_plan(self.seconds, self.max_batch_seconds, **given)
        return self._last[1]

    def loader(self, utterances: Dataset, **options: Any) -> DataLoader:
        return DataLoader(utterances, batch_sampler=self, **options)

    def resume(self, checkpoint: Path, batches: int) -> None:
        self.done = batches
        if self.corpus is not None:
            same_corpus.compare(self.corpus, checkpoint)

    def save(self, checkpoint: Path) -> None:
        if self.corpus is not None:
            same_corpus.save(self.corpus, checkpoint)

    def epochs(self, batches: int) -> float:
        """By the length of the first one."""
        return batches / self.per_epoch

    def hours(self, batches: int) -> float:
        return float(self.epochs(batches) * self.seconds.sum() / 3600)

    def padding(self) -> float:
        """Padded over real seconds, minus one, in the first epoch."""
        return float(self.epoch(0).padded(self.seconds).sum() / self.seconds.sum() - 1)

    def worst(self) -> list[int]:
        """The costliest batch of the first epoch: one of its first step."""
        step, rank = self.epoch(0).costliest(self.seconds)
        return self.epoch(0)[step][rank]

    def rehearsal(self, utterances: Any) -> list[Any]:
        return [utterances[(0, index)] for index in self.worst()]
