"""Which utterances share a batch, and in which order the batches come.

A batch costs its padded seconds: utterances times the longest of them. Every plan here is bounded in that cost, and is
a pure function of (lengths, budget, seed, epoch, world), so that a run resumes to the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# Lengths are sorted within a pool of about this many batches per process: 100 keep padding near 1 %, while who meets
# whom in a batch still changes with every epoch.
POOL_BATCHES = 100


def cut(order: Iterable[int], seconds: np.ndarray, max_batch_seconds: float) -> list[list[int]]:
    """Cuts utterances, already in order, into batches of at most ``max_batch_seconds`` padded seconds.

    An utterance longer than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0.0
    for index in order:
        longest_with = max(longest, seconds[index])
        if batch and (len(batch) + 1) * longest_with > max_batch_seconds:
            batches.append(batch)
            batch, longest_with = [], seconds[index]
        batch.append(int(index))
        longest = longest_with
    if batch:
        batches.append(batch)
    return batches


def sorted_batches(seconds: Sequence[float] | np.ndarray, max_batch_seconds: float) -> list[list[int]]:
    """The plan of evaluation: every utterance once, the longest first, so that memory runs short at once or never."""
    lengths = np.asarray(seconds, dtype=float)
    return cut(np.argsort(-lengths, kind="stable"), lengths, max_batch_seconds)


def epoch_plan(
    seconds: np.ndarray, max_batch_seconds: float, *, seed: int, epoch: int, world: int = 1
) -> list[list[list[int]]]:
    """The plan of one epoch of training.

    Shuffled, sorted by length within pools, cut into batches, dealt out in rows of ``world`` batches of nearly the same
    cost (one for each process), the rows shuffled. In the first epoch the costliest row comes first: memory runs short
    at once or never.

    Returns:
        steps x world x utterances: ``plan[step][rank]`` is a batch. Every utterance stands in exactly one batch; where
        the number of batches is no multiple of ``world``, the fullest batches are split (see :func:`_multiple_of`).

    Raises:
        ValueError: fewer utterances than processes.
    """
    if len(seconds) < world:
        raise ValueError(f"{len(seconds)} utterances can't be shared among {world} processes")
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(seconds))
    pool = max(world, int(POOL_BATCHES * world * max(1.0, max_batch_seconds / max(float(np.mean(seconds)), 1e-3))))
    steps: list[list[list[int]]] = []
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        if len(order) - (start + pool) < world:  # a rest too small to be dealt out joins the last pool
            chunk = order[start:]
        batches = _multiple_of(cut(chunk[np.argsort(seconds[chunk], kind="stable")], seconds, max_batch_seconds), world)
        steps.extend(batches[first : first + world] for first in range(0, len(batches), world))
        if start + len(chunk) >= len(order):
            break
    shuffled = [steps[position] for position in rng.permutation(len(steps))]
    if epoch == 0:
        costs = [max(cost(batch, seconds) for batch in step) for step in shuffled]
        shuffled.insert(0, shuffled.pop(costs.index(max(costs))))
    return shuffled


def cost(batch: list[int], seconds: np.ndarray) -> tuple[int, float]:
    """What a batch takes of memory: padded seconds; among equals the one with the longest utterance takes more."""
    longest = float(seconds[batch].max())
    return round(len(batch) * longest), longest


def _multiple_of(batches: list[list[int]], world: int) -> list[list[int]]:
    """Splits the batches with most utterances in halves until their number is a multiple of ``world``.

    Where all hold but one utterance, the first ones come twice: no utterance is left out, no process without a batch.
    """
    while len(batches) % world:
        fullest = max(range(len(batches)), key=lambda position: len(batches[position]))
        batch = batches[fullest]
        if len(batch) == 1:
            return batches[: -len(batches) % world] + batches
        half = len(batch) // 2
        batches[fullest : fullest + 1] = [batch[:half], batch[half:]]
    return batches


class BatchPlan:
    """The batches of a whole run, as a batch sampler for one process.

    Epochs follow each other without a seam, so that an optimizer step may take its last micro-batches from the next
    epoch, and position ``n`` of the run is the same however often the run was interrupted.

    Args:
        seconds: (N,) length of every utterance.
        max_batch_seconds: padded seconds per batch and process.
        batches: how many batches the run has, per process.
        seed: of the shuffling.
        rank, world: this process and their number.
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
    ) -> None:
        self.seconds = np.asarray(seconds, dtype=float)
        self.max_batch_seconds, self.batches, self.seed = max_batch_seconds, batches, seed
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yields batches of (epoch, utterance): the epoch decides how an utterance is augmented this time."""
        left, epoch = self.batches, 0
        while left > 0:
            for step in self.epoch(epoch)[:left]:
                yield [(epoch, index) for index in step[self.rank]]
                left -= 1
            epoch += 1

    def epoch(self, epoch: int) -> list[list[list[int]]]:
        """:func:`epoch_plan` of one epoch of this run."""
        return epoch_plan(self.seconds, self.max_batch_seconds, seed=self.seed, epoch=epoch, world=self.world)

    def padding(self) -> float:
        """Padded over real seconds, minus one, in the first epoch."""
        padded = sum(len(b) * self.seconds[b].max() for step in self.epoch(0) for b in step)
        return float(padded / self.seconds.sum() - 1)

    def worst(self) -> list[int]:
        """The costliest batch of the first epoch: one of its first step."""
        return max(self.epoch(0)[0], key=lambda batch: cost(batch, self.seconds))
