"""Confidence intervals and comparisons by bootstrap: whole speakers are drawn if there are enough of them.

A statistic is a function of sums: every unit (an utterance) contributes a row of numbers, and a resample is the sum of
the rows it drew, weighted by how often. That covers error rates (errors, reference words), means (value, 1), accuracy,
and F1 scores (true positives, false positives and false negatives of each class).

Legend: N utterances, U units (speakers or utterances), K numbers of a unit, R resamples.

Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000
# With fewer speakers than this a bootstrap over speakers says nothing (three speakers have ten distinct resamples).
MIN_SPEAKERS = 5
_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of a large corpus

Statistic = Callable[[np.ndarray], np.ndarray]  # sums (R, K) to values (R,)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, and what was resampled for it: "speakers" or "utterances"."""

    low: float
    high: float
    over: str


@dataclass(frozen=True)
class Comparison:
    """The difference between two systems on the same utterances, first minus second.

    Attributes:
        difference: difference of the statistic over all utterances.
        interval: 95 % interval of that difference.
        p_value: two-sided, for the hypothesis that the systems do not differ.
        error: standard error of that difference.
    """

    difference: float
    interval: Interval
    p_value: float
    error: float


def mean(sums: np.ndarray) -> np.ndarray:
    """Return the mean, or any ratio of sums, for units of two numbers: a value and its weight."""
    return sums[:, 0] / sums[:, 1]


def bootstrap_interval(
    units: np.ndarray, statistic: Statistic, speakers: Sequence[str] | None = None, *, seed: int = 0
) -> Interval:
    """Return the 95 % percentile bootstrap interval of a statistic.

    Whole speakers are drawn if all of them are known and there are at least ``MIN_SPEAKERS``, because the results of
    one speaker are correlated; otherwise utterances are drawn, which makes the interval too narrow for a new speaker.
    The same input gives the same interval.

    Args:
        units: (N, K) what each utterance contributes to the sums.
        statistic: function of the sums.
        speakers: speaker of each utterance; "" if unknown.
        seed: seed of the draws.

    Returns:
        The interval; its limits are NaN if there are no utterances.
    """
    return bootstrap_intervals(units, lambda sums: statistic(sums)[:, None], speakers, seed=seed)[0]


def bootstrap_intervals(
    units: np.ndarray, statistics: Statistic, speakers: Sequence[str] | None = None, *, seed: int = 0
) -> list[Interval]:
    """Return the intervals of M statistics over the same resamples, as :func:`bootstrap_interval` does for one.

    Args:
        statistics: sums (R, K) to values (R, M).
    """
    if len(units) == 0:
        nothing = statistics(np.zeros((1, np.shape(units)[-1])))
        return [Interval(float("nan"), float("nan"), "utterances")] * nothing.shape[1]
    values, over = replicates(units, statistics, speakers, seed=seed)
    return [interval_of(column, over) for column in values.T]


def replicates(
    units: np.ndarray,
    statistics: Statistic,
    speakers: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[np.ndarray, str]:
    """Return M statistics of every resample (R, M), and what was resampled: "speakers" or "utterances".

    Args:
        units: (N, K), N at least 1.
        statistics: sums (R, K) to values (R, M).
        speakers, seed: as in :func:`bootstrap_interval`.
        resamples: R.
    """
    drawn, over = _units(units, speakers)
    return np.concatenate([statistics(counts @ drawn) for counts in _resamples(len(drawn), seed, resamples)]), over


def compare(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Statistic,
    speakers: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same utterances by a paired bootstrap: both are scored on each resample.

    Args:
        first: (N, K) what each utterance contributes for the first system.
        second: (N, K) for the second system, utterances in the same order.
        statistic: function of the sums.
        speakers: as in :func:`bootstrap_interval`.
        seed: seed of the draws.

    Raises:
        ValueError: the systems differ in their number of utterances, or there is none.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"a paired test of {len(first)} and {len(second)} utterances")
    both, width = np.hstack([first, second]), np.shape(first)[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[:, :width]) - statistic(sums[:, width:])

    values, over = replicates(both, difference, speakers, seed=seed)
    found = float(difference(both.sum(0, keepdims=True))[0])
    return Comparison(found, interval_of(values, over), p_value_of(values), standard_error(both, difference, speakers))


def standard_error(units: np.ndarray, statistic: Statistic, speakers: Sequence[str] | None = None) -> float:
    """Return the standard error of a statistic, by the jackknife (Efron and Stein, Annals of Statistics 9, 1981).

    It has no chance in it, so that figures which differ by a single error differ by exactly one standard error. The
    width of a percentile interval says too little there.

    Args:
        units, statistic, speakers: as in :func:`bootstrap_interval`.
    """
    drawn, _ = _units(units, speakers)
    if len(drawn) < 2:
        return 0.0
    without_one = statistic(drawn.sum(0) - drawn)
    return float(np.sqrt((len(drawn) - 1) * without_one.var()))


def p_value_of(differences: np.ndarray) -> float:
    """Return the two-sided probability of no difference, from the differences (R,) of all resamples."""
    # The smaller tail, doubled; plus one, since a finite number of resamples cannot show a probability of zero.
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the same order: any of them is wrong with the stated probability.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def compare_rows(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    unit: Callable[[Mapping[str, Any]], Sequence[float]],
    statistic: Statistic,
    speakers: Sequence[str] | None = None,
) -> Comparison | None:
    """Compare two systems as :func:`compare` does, from the lines of two SPLIT.jsonl in any order.

    Args:
        first, second: lines with an "id".
        unit: what the utterance of a line contributes to the sums.
        statistic: function of the sums.
        speakers: speaker of each line of ``first``.

    Returns:
        None if the utterances are not the same.
    """
    units, others = ({row["id"]: unit(row) for row in rows} for rows in (first, second))
    if not units or units.keys() != others.keys() or len(units) != len(first):
        return None
    return compare(np.array([*units.values()]), np.array([others[id] for id in units]), statistic, speakers)


def _units(units: np.ndarray, speakers: Sequence[str] | None) -> tuple[np.ndarray, str]:
    """Return the units to be drawn (U, K), and what they are: utterances, or the sums of each speaker's."""
    units = np.asarray(units, dtype=float)
    if not speakers or not all(speakers) or len(set(speakers)) < MIN_SPEAKERS:
        return units, "utterances"
    names, owner = np.unique(np.asarray(speakers), return_inverse=True)
    grouped = np.zeros((len(names), *units.shape[1:]))
    np.add.at(grouped, owner, units)
    return grouped, "speakers"


def _resamples(units: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield how often each unit was drawn, (r, U) for r resamples at a time."""
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // units)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, units, (count, units)) + np.arange(count)[:, None] * units
        # Floats, because numpy multiplies matrices of integers without BLAS. Sums of counts stay exact up to 2**53.
        yield np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units).astype(float)


def interval_of(values: np.ndarray, over: str) -> Interval:
    """Return the 95 % interval of a statistic from its values (R,) in all resamples."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high), over)
