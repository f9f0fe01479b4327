"""What training changed in a metric."""

from __future__ import annotations

from dataclasses import dataclass

from sft_speech.metrics.intervals import Comparison
from sft_speech.options.spec import Metric


@dataclass(frozen=True)
class Change:
    """The metric of a split before and after training.

    Args:
        split: name of the split.
        metric: the metric that picks the best checkpoint.
        before, after: its values.
        comparison: the difference after - before, with its interval; None if there is no interval.
    """

    split: str
    metric: Metric
    before: float
    after: float
    comparison: Comparison | None = None

    @property
    def worse(self) -> bool:
        """Whether the metric is worse than before; if there is an interval, all of it."""
        sign = 1 if self.metric.best == "min" else -1
        if self.comparison is None:
            return sign * (self.after - self.before) > 0
        interval = self.comparison.interval
        return min(sign * interval.low, sign * interval.high) > 0

    def __str__(self) -> str:
        before, after = (f"{self.metric.shown(value)}{self.metric.unit}" for value in (self.before, self.after))
        line = f"{self.split}: {self.metric.title} {before} -> {after}"
        if self.comparison is None:
            return line
        interval = self.comparison.interval
        values = (interval.low, interval.high, self.comparison.difference)
        low, high, difference = (self.metric.shown(value, "+") for value in values)
        return f"{line} (difference {difference}, paired 95 % interval {low} to {high} over {interval.over})"
