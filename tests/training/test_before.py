from __future__ import annotations

import pytest

from sft_speech.metrics.change import Change
from sft_speech.metrics.intervals import Comparison, Interval
from sft_speech.options.spec import Metric

WER, ACCURACY = Metric("wer", "WER %", scale=100), Metric("accuracy", "accuracy %", best="max", scale=100)


def change(metric: Metric, before: float, after: float, low: float, high: float) -> Change:
    return Change("dev", metric, before, after, Comparison(after - before, Interval(low, high, "speakers"), 0.01, 0.02))


def test_a_line_is_literal():
    assert str(change(WER, 0.54, 0.007, -0.6, -0.45)) == (
        "dev: WER 54.00 % -> 0.70 % (difference -53.30, paired 95 % interval -60.00 to -45.00 over speakers)"
    )
    assert str(Change("test", Metric("loss", "loss"), 2.5, 0.25)) == "test: loss 2.5000 -> 0.2500"


@pytest.mark.parametrize(
    ("metric", "after", "limits", "worse"),
    [
        (WER, 0.6, (0.05, 0.15), True),
        (WER, 0.6, (-0.01, 0.15), False),  # within the noise
        (WER, 0.6, None, True),
        (WER, 0.4, (-0.15, -0.05), False),
        (WER, 0.5, None, False),
        (ACCURACY, 0.6, (0.05, 0.15), False),
        (ACCURACY, 0.4, (-0.15, -0.05), True),
        (ACCURACY, 0.4, (-0.15, 0.01), False),
        (ACCURACY, 0.4, None, True),
    ],
)
def test_worse_beyond_the_noise(metric, after, limits, worse):
    found = Change("dev", metric, 0.5, after) if limits is None else change(metric, 0.5, after, *limits)
    assert found.worse == worse
