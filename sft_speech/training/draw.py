"""The utterances of each epoch of a mix of corpora: every corpus has its share of the epoch's seconds.

An epoch is as long as all corpora together. A corpus that gets more than its own seconds is repeated: whole passes, and
a portion of one more. A corpus that gets less gives a portion. Portions of successive epochs follow each other: nothing
comes again before all of the corpus was drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sft_speech.options.mixing import Part


def shares_of(parts: Sequence[Part], seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the share of each corpus (P,) in the seconds of an epoch.

    With weights, shares are proportional to them; with a temperature T, to seconds^(1 / T), as in the multilingual
    sampling of mBERT and XLS-R (Conneau et al. 2020, arXiv 2006.13979, section 3; their alpha is 1 / T); else to the
    seconds.

    Args:
        seconds: of the usable rows of each corpus.
    """
    weights = np.asarray(seconds, dtype=float)
    temperatures = [part.temperature for part in parts if part.temperature is not None]
    if parts[0].weight is not None:
        weights = np.array([part.weight for part in parts], dtype=float)
    elif temperatures:
        weights = (weights / weights.max()) ** (1 / temperatures[0])
    return weights / weights.sum()


def are_plain(parts: Sequence[Part]) -> bool:
    """Return whether every utterance comes once per epoch: the corpora are only put together."""
    return all(part.weight is None and part.temperature is None for part in parts)


class Portion:
    """A portion of a corpus in every epoch, drawn without replacement over epochs.

    Args:
        seconds: (N,) lengths of the utterances.
        wanted: seconds per epoch, fewer than all. The sum over epochs is always within half an utterance of it, so that
            an epoch is within one.
        seed: seeds of the order.
    """

    def __init__(self, seconds: np.ndarray, wanted: float, seed: tuple[int, ...]) -> None:
        self.seconds, self.wanted, self.seed = seconds, wanted, seed
        self._restart()

    def _restart(self) -> None:
        self._next, self._passes, self._owed = 0, 0, 0.0  # epoch; orders drawn; seconds
        self._queue = np.zeros(0, int)  # the rest of the current order
        self._drawn = np.zeros(0, int)

    def draw(self, epoch: int) -> np.ndarray:
        """Return the indices drawn in an epoch, each once."""
        if epoch < self._next - 1:
            self._restart()
        while self._next <= epoch:
            self._drawn = self._advance()
            self._next += 1
        return self._drawn

    def _advance(self) -> np.ndarray:
        self._owed += self.wanted
        drawn, fresh = np.zeros(0, int), len(self._queue)
        while True:
            if not len(self._queue):
                order = np.random.default_rng((*self.seed, self._passes)).permutation(len(self.seconds))
                again = np.isin(order, drawn)  # in this epoch: they wait for the next one
                self._queue, fresh = np.concatenate([order[~again], order[again]]), int((~again).sum())
                self._passes += 1
            lengths = self.seconds[self._queue[:fresh]]
            ends = np.cumsum(lengths)
            count = int(np.searchsorted(ends - lengths / 2, self._owed, side="right"))  # at least half of each fits
            drawn, self._queue, fresh = np.append(drawn, self._queue[:count]), self._queue[count:], fresh - count
            self._owed -= float(ends[count - 1]) if count else 0.0
            if len(self._queue):
                return drawn


class MixedDraw:
    """The :class:`~sft_speech.training.plan.Draw` of a mix. It does not depend on the number of processes or workers.

    Args:
        names: of the P corpora; with ``seed`` they seed the order of portions.
        seconds: lengths of the utterances of each corpus, whose rows follow each other.
        shares: (P,) of the seconds of an epoch.
        seed: seed of the run.

    Attributes:
        passes: (P,) passes over each corpus in an epoch.
    """

    def __init__(self, names: Sequence[str], seconds: Sequence[np.ndarray], shares: np.ndarray, seed: int) -> None:
        own = np.array([lengths.sum() for lengths in seconds])
        self.passes = shares * own.sum() / own
        self.whole = np.floor(self.passes + 1e-9).astype(int)  # 1.0 may have been rounded down
        self.begins = np.cumsum([0, *(len(lengths) for lengths in seconds)])
        self.copies = int(self.whole.max()) + 1
        self.portions = [
            Portion(lengths, max(0.0, (passes - whole) * total), (seed, zlib.crc32(name.encode())))
            for name, lengths, passes, whole, total in zip(names, seconds, self.passes, self.whole, own, strict=True)
        ]

    @property
    def record(self) -> dict[str, Any]:
        return {"passes": self.passes.tolist()}

    def keys(self, epoch: int) -> np.ndarray:
        count, keys = self.begins[-1], []
        for begin, end, whole, portion in zip(
            self.begins[:-1], self.begins[1:], self.whole, self.portions, strict=True
        ):
            keys += [occurrence * count + np.arange(begin, end) for occurrence in range(whole)]
            keys.append(whole * count + begin + np.sort(portion.draw(epoch)))
        return np.sort(np.concatenate(keys))


def subset(name: str, seconds: np.ndarray, counted: np.ndarray, max_hours: float, seed: int) -> np.ndarray:
    """Return the rows of a random subset of at most ``max_hours``, to within half an utterance; in their order.

    Args:
        name: of the corpus; with ``seed`` it seeds the choice.
        seconds: (N,) lengths of the rows.
        counted: (N,) True for rows that count; others are too short or too long to be used.
    """
    order = np.random.default_rng((seed, zlib.crc32(name.encode()))).permutation(len(seconds))
    lengths = np.where(counted, seconds, 0.0)[order]
    middles = np.cumsum(lengths) - lengths / 2
    return np.sort(order[: np.searchsorted(middles, max_hours * 3600, side="right")])
