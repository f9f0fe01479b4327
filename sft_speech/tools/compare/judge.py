"""Judge the candidates of a comparison: errors with intervals, paired tests against the best, and which one to take.

All candidates are scored on the same resamples of the same utterances (of whole speakers, if there are enough of them),
so that every difference is a paired one. The evaluation split decides; test splits are reported only.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from sft_speech.corpora.report import file_stem
from sft_speech.metrics.intervals import Interval, holm, interval_of, p_value_of, replicates
from sft_speech.metrics.utterances import RATES, Lines, common, measured, read_lines, rescored, speakers_of
from sft_speech.options.spec import Metric
from sft_speech.text.counted import counted
from sft_speech.tools.compare.outcomes import Comparison, Outcome, by_processor, read_json, timed

RESAMPLES = 10_000  # the smallest p-value, times the number of candidates, must stay below 5 %
LEVEL = 0.05
MIN_UTTERANCES = 6  # of five paired differences, even an exact test can't find any significant: 2 / 2**5 > 5 %
MOST_MISSING = 0.05  # share of the utterances that a candidate may have left out, as max_dropped_share has it
USELESS = 0.9  # error rate
# Sizes, times and speeds that differ by less than this count as equal; timings of a shared machine vary.
SAME_SIZE, SAME_TIME = 1.05, 1.2
ONE = 1.05  # standard errors; a single error more in a single utterance is one, but for the chance of the resamples


@dataclass(frozen=True)
class Score:
    """A figure of a split; the interval is None if there are no figures of single utterances."""

    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Versus:
    """A difference, on the same utterances.

    Args:
        difference: of the metric, candidate minus the other.
        interval: its 95 % interval.
        error: its standard error.
        p_value: two-sided; of candidates against the best, adjusted for their number (Holm).
    """

    difference: float
    interval: Interval
    error: float
    p_value: float


@dataclass(frozen=True)
class Candidate:
    """A finished candidate.

    Args:
        scores: by role of the split.
        versus: the difference to the best candidate; None for the best, or without figures of single utterances.
        alike: whether it cannot be told apart from the best.
        seconds_per_update: the time that counts, see :func:`~sft_speech.tools.compare.outcomes.timed`.
        speed: seconds of audio per second of use, in the time that counts.
    """

    outcome: Outcome
    scores: dict[str, Score]
    versus: Versus | None = None
    alike: bool = True
    seconds_per_update: float | None = None
    speed: float | None = None

    @property
    def name(self) -> str:
        return self.outcome.name

    @property
    def close(self) -> bool:
        """Whether it is within one standard error of the best.

        Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984, section 3.4.3: take the
        simplest model within one standard error of the best.
        """
        return self.alike and (self.versus is None or abs(self.versus.difference) <= ONE * self.versus.error)

    @property
    def training_seconds(self) -> float | None:
        one = self.outcome.updates
        return one * self.seconds_per_update if self.seconds_per_update and one else None


@dataclass(frozen=True)
class Untrained:
    """A checkpoint as it was before training; ``best`` is the difference of the best candidate to it."""

    model: str
    score: Score
    best: Versus


@dataclass(frozen=True)
class Judgement:
    """The result of a comparison.

    Args:
        role: of the split that decides.
        candidates: the finished ones, the best first.
        others: dropped and failed ones.
        utterances, speakers: of the split that decides; 0 speakers if they are unknown.
        over: what was resampled: "speakers" or "utterances"; "" if nothing could be.
        chance: the accuracy of always answering with the most frequent label; None for other metrics.
        untrained: the best of the checkpoints before training.
        notes: what a reader has to know about the figures.
        cpu: whether times are those of the processor, not of the clock.
    """

    comparison: Comparison
    role: str
    candidates: list[Candidate]
    others: list[Outcome]
    utterances: int = 0
    speakers: int = 0
    over: str = ""
    chance: float | None = None
    untrained: Untrained | None = None
    notes: list[str] = field(default_factory=list)
    cpu: bool = False

    @property
    def metric(self) -> Metric:
        return self.comparison.metric

    @property
    def tests(self) -> list[str]:
        """Roles of the splits that do not decide."""
        return [role for role in self.comparison.splits if role != self.role]

    @property
    def alike(self) -> list[Candidate]:
        return [one for one in self.candidates if one.alike]

    @property
    def useless(self) -> bool:
        """Whether no candidate is of any use."""
        if not self.candidates:
            return True
        best = self.candidates[0].scores[self.role]
        if self.chance is not None:
            return (best.interval.low if best.interval else best.value) <= self.chance
        return self.metric.scale == 100 and self.metric.best == "min" and best.value > USELESS

    @property
    def untrained_wins(self) -> bool:
        """Whether a checkpoint was at least as good before training as the best candidate."""
        return self.untrained is not None and _cost(self.metric, self.untrained.best.difference) >= 0

    @cached_property
    def chosen(self) -> Candidate | None:
        """The candidate to take; None if none is worth it.

        Of those close to the best it is the smallest, of these the fastest, of these the cheapest to train.
        """
        if self.useless or self.untrained_wins:
            return None
        left = [one for one in self.candidates if one.close]
        left = _least(left, lambda one: one.outcome.bytes or None, SAME_SIZE)
        left = _least(left, lambda one: 1 / one.speed if one.speed else None, SAME_TIME)
        left = _least(left, lambda one: one.training_seconds, SAME_TIME)
        return left[0]  # in the order of their errors


def _least(candidates: list[Candidate], of: Callable[[Candidate], float | None], same: float) -> list[Candidate]:
    """Return the candidates with the least of something, within a factor; all of them if it isn't known of each."""
    known = [value for one in candidates if (value := of(one)) is not None]
    if len(known) < len(candidates):
        return candidates
    return [one for one, value in zip(candidates, known, strict=True) if value <= same * min(known)]


def judge(comparison: Comparison) -> Judgement:
    """Return the judgement of a comparison; the order of its outcomes does not matter.

    Raises:
        UserError: the candidates were evaluated on different utterances, or their files cannot be read.
    """
    outcomes = sorted(comparison.outcomes, key=lambda one: one.name)
    role = "eval" if "eval" in comparison.splits else min(comparison.splits, default="eval")
    key = f"{role}_{comparison.metric.name}"
    finished = [one for one in outcomes if one.status == "finished" and math.isfinite(one.figures.get(key, math.nan))]
    others = sorted((one for one in outcomes if one not in finished), key=lambda one: (one.status, one.name))
    if not finished:
        return Judgement(comparison, role, [], others)
    splits = {one: SplitFigures(comparison, one, finished) for one in comparison.splits}
    deciding = splits[role]
    order = sorted(finished, key=lambda one: (_cost(comparison.metric, deciding.scores[one.name].value), one.name))
    versus, times = deciding.versus(order[0].name), timed(finished)
    candidates = [
        Candidate(
            outcome,
            {name: split.scores[outcome.name] for name, split in splits.items() if outcome.name in split.scores},
            versus.get(outcome.name),
            _alike(deciding, order[0].name, outcome.name, versus),
            *times[outcome.name],
        )
        for outcome in order
    ]
    return Judgement(
        comparison,
        role,
        candidates,
        others,
        deciding.utterances,
        len({*filter(None, deciding.speakers)}) if all(deciding.speakers) else 0,
        deciding.over,
        deciding.chance,
        deciding.untrained(order[0].name),
        [*dict.fromkeys(note for split in splits.values() for note in split.notes)],
        by_processor(finished),
    )


def _alike(split: SplitFigures, best: str, name: str, versus: Mapping[str, Versus]) -> bool:
    if name in versus:
        return versus[name].p_value >= LEVEL
    return split.scores[name].value == split.scores[best].value


def _cost(metric: Metric, value: float) -> float:
    """Return a figure of which less is better."""
    return value if metric.best == "min" else -value


class SplitFigures:
    """The figures of all finished candidates on a split, and of their checkpoints before training.

    Attributes:
        scores: by candidate.
        speakers: of the utterances that all candidates have.
        over: what was resampled; "" if there are no figures of single utterances.
        notes: what a reader has to know about the figures.
    """

    def __init__(self, comparison: Comparison, role: str, outcomes: Sequence[Outcome]) -> None:
        self.metric, self.split = comparison.metric, comparison.splits[role]
        self.notes: list[str] = []
        self.over, self.speakers, self.utterances = "", list[str](), 0
        self.chance: float | None = None
        figures = {one.name: one.figures.get(f"{role}_{self.metric.name}", math.nan) for one in outcomes}
        self.scores = {name: Score(value) for name, value in figures.items() if math.isfinite(value)}
        self.before: dict[str, str] = {}  # names of models by the name of the entry of their untrained checkpoint
        lines = {one.name: read_lines(one.folder / "evaluation", self.split) for one in outcomes}
        if not all(lines.values()):
            return
        folders = {one.name: one.folder / "evaluation" for one in outcomes}
        for one in outcomes:
            model, folder = str(one.settings.get("model", comparison.base.get("model", "it"))), folders[one.name]
            entry = f"{one.name}, before training"
            found = read_lines(folder / "before", self.split) if model not in self.before.values() else {}
            if found and found.keys() == lines[one.name].keys():
                self.before[entry], lines[entry], folders[entry] = model, found, folder / "before"
        self._score(lines, folders)

    def _score(self, lines: dict[str, Lines], folders: Mapping[str, Path]) -> None:
        """Set the scores with their intervals from the lines of every utterance."""
        lines, left_out = common(lines, self.split, MOST_MISSING)
        if self.metric.name in RATES and all("hypothesis" in line for one in lines.values() for line in one.values()):
            files = {name: folders[name] / f"{file_stem(self.split)}.json" for name in lines}
            normalizers = {name: str(read_json(file).get("normalizer", "")) for name, file in files.items()}
            lines, normalizer = rescored(lines, normalizers)
            if normalizer:
                self.notes.append(
                    "The runs normalized transcripts differently, so all are scored under the normalizer "
                    f"{normalizer} here; the figures in the runs' own files differ"
                )
        found = measured([*lines.values()], self.metric.name)
        if found is None or not next(iter(lines.values())):
            return
        if left_out:
            what = counted(left_out, "utterance")
            self.notes.append(f"Left out of {self.split}: {what} that not every candidate evaluated")
        units, statistic = found
        self.speakers, self.utterances = speakers_of([*lines.values()]), len(units[0])
        width = units[0].shape[1]

        def each(sums: np.ndarray) -> np.ndarray:
            return np.stack([statistic(sums[:, start : start + width]) for start in range(0, sums.shape[1], width)], -1)

        stacked = np.hstack(units)
        values, self.over = replicates(stacked, each, self.speakers, resamples=RESAMPLES)
        points = each(stacked.sum(0, keepdims=True))[0]
        self.points = dict(zip(lines, map(float, points), strict=True))
        self.values = dict(zip(lines, values.T, strict=True))
        scores = {name: Score(self.points[name], interval_of(self.values[name], self.over)) for name in lines}
        self.all_scores = scores
        self.scores = {name: score for name, score in scores.items() if name not in self.before}
        if self.metric.name == "accuracy":
            labels = Counter(line["expected"] for line in next(iter(lines.values())).values())
            self.chance = max(labels.values()) / self.utterances

    def versus(self, best: str) -> dict[str, Versus]:
        """Return the difference of every other candidate to the best, with p-values adjusted for their number."""
        if not self.over:
            return {}
        found = {name: self.pair(name, best) for name in self.scores if name != best}
        adjusted = holm([one.p_value for one in found.values()])
        return {
            name: Versus(one.difference, one.interval, one.error, p)
            for (name, one), p in zip(found.items(), adjusted, strict=True)
        }

    def untrained(self, best: str) -> Untrained | None:
        """Return the best of the checkpoints before training, and the difference of the best candidate to it."""
        if not self.over or not self.before:
            return None
        entry = min(self.before, key=lambda one: (_cost(self.metric, self.points[one]), self.before[one]))
        return Untrained(self.before[entry], self.all_scores[entry], self.pair(best, entry))

    def pair(self, name: str, other: str) -> Versus:
        """Return the paired difference of two entries.

        The percentile bootstrap finds too many differences if there are few utterances or speakers, so the larger of
        its p-value and that of a t-test with the bootstrap's standard error counts.
        """
        from scipy.stats import t

        differences = self.values[name] - self.values[other]
        difference = self.points[name] - self.points[other]
        units = len(set(self.speakers)) if self.over == "speakers" else self.utterances
        # The standard deviation of a bootstrap divides by N, not N - 1.
        error = float(differences.std()) * math.sqrt(units / max(1, units - 1))
        p_value = 1.0
        if self.utterances >= MIN_UTTERANCES:
            by_t = 2 * float(t.sf(abs(difference) / error, units - 1)) if error > 0 else float(difference == 0)
            p_value = max(p_value_of(differences), by_t)
        return Versus(difference, interval_of(differences, self.over), error, p_value)


def more_utterances(judgement: Judgement, versus: Versus) -> int | None:
    """Return how many more utterances would show a difference of this size four times out of five.

    The standard error shrinks with the root of their number; the test is at 5 % over the number of comparisons.

    Returns:
        None if there is no difference, or no number of utterances that can be had would show it.
    """
    from scipy.stats import norm

    if versus.difference == 0 or versus.error == 0:
        return None
    wanted = norm.ppf(1 - LEVEL / 2 / max(1, len(judgement.candidates) - 1)) + norm.ppf(0.8)
    more = judgement.utterances * ((wanted * versus.error / abs(versus.difference)) ** 2 - 1)
    return max(1, math.ceil(more)) if more < 1_000_000 else None


def effects(judgement: Judgement) -> dict[str, list[tuple[str, float, int]]]:
    """Return, by varied key, (value, mean figure, number) of the finished candidates with each value."""
    found: dict[str, dict[str, list[float]]] = {}
    finished = judgement.candidates
    for key in sorted({key for one in finished for key in one.outcome.settings}):
        by_value: dict[str, list[float]] = {}
        for one in finished:
            value = one.outcome.settings.get(key, "not set")
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
            by_value.setdefault(text, []).append(one.scores[judgement.role].value)
        if 1 < len(by_value) < len(finished):  # with one candidate per value, a mean says nothing new
            found[key] = by_value
    return {
        key: [
            (value, sum(figures) / len(figures), len(figures))
            for value, figures in sorted(by_value.items(), key=_order)
        ]
        for key, by_value in found.items()
    }


def _order(item: tuple[str, list[float]]) -> tuple[float, str]:
    """Return the sort key of (value, figures): numbers by their size, then texts."""
    try:
        return float(item[0]), item[0]
    except ValueError:
        return math.inf, item[0]
