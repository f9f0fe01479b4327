"""The rule that picks the share of the trained weights."""

from __future__ import annotations

import json

import accelerate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.errors import UserError
from sft_speech.metrics.intervals import compare_rows, mean
from sft_speech.options.spec import Metric
from sft_speech.training.interpolation import SHARES, Point, choose, rule, search

WER, ACCURACY = Metric("wer", "WER %", scale=100), Metric("accuracy", "accuracy %", best="max", scale=100)


def points(*differences: float, error: float | None = 0.01, kept: tuple[float, ...] = ()) -> list[Point]:
    values = kept or (None,) * len(differences)
    return [Point(n / 10, 0.1 + d, d, error, k) for n, (d, k) in enumerate(zip(differences, values, strict=True))]


def test_the_smallest_share_that_is_as_good():
    assert choose(points(0.5, 0.2, 0.009, 0.011, 0.0, 0.002), "min").share == 0.2
    assert choose(points(0.5, 0.2, 0.009, 0.011, 0.0, 0.002, error=None), "min").share == 0.4, "without an interval"
    assert choose(points(0.0, 0.0), "min").share == 0.0


def test_splits_to_select_by_decide_between_shares_that_are_as_good():
    found = points(0.5, 0.009, 0.0, 0.005, kept=(0.1, 0.3, 0.2, 0.4))
    assert choose(found, "min").share == 0.2
    assert choose(found, "max").share == 0.3
    assert choose(points(0.0, 0.0, kept=(0.2, 0.2)), "min").share == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=11), st.integers(0, 10))
def test_the_choice_is_never_worse_than_the_best_by_more_than_its_error(pairs, best):
    best %= len(pairs)
    found = [Point(n / 10, d, 0.0 if n == best else d, e) for n, (d, e) in enumerate(pairs)]
    chosen = choose(found, "min")
    assert chosen.difference <= (chosen.error or 0)
    assert chosen.share <= best / 10
    assert all(not point.as_good for point in found if point.share < chosen.share)


def test_the_rule_in_words():
    assert rule("wer", [], interval=True) == (
        "the smallest share whose wer on the evaluation split is within one standard error (paired) of the best"
    )
    assert rule("wer", ["select_other"], interval=True).endswith("of the best, the best on select_other")
    assert rule("loss", [], interval=False) == "the share with the best loss on the evaluation split"


class Evaluation:
    """Of ten utterances of ten words; the first ones have all errors."""

    def __init__(self, name: str, wrong: int) -> None:
        self.rows = [{"id": str(n), "errors": 10 * (n < wrong)} for n in range(10)]
        self.figures = {name: wrong / 10}

    def metrics(self):
        return self.figures

    def save(self, folder, split):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))


class Task:
    def compare(self, evaluation, rows, metric):
        return compare_rows(evaluation.rows, rows, lambda row: (row["errors"], 10), mean)


class Mixture:
    def set(self, share):
        self.share = share


def searched(metric: Metric, wrong: dict[float, int], selects: tuple[str, ...] = ()) -> list[Point]:
    accelerate.PartialState(cpu=True)
    mixture = Mixture()

    def evaluate(rows):
        return Evaluation(metric.name, wrong[mixture.share] if rows == "eval" else round(10 * mixture.share))

    return search(Task(), metric, "eval", {name: name for name in selects}, mixture, evaluate)


def test_a_search_measures_every_share():
    wrong = dict(zip(SHARES, (9, 8, 7, 4, 3, 3, 2, 1, 1, 1, 2), strict=True))
    found = searched(WER, wrong)
    assert [point.value for point in found] == [wrong[share] / 10 for share in SHARES]
    best = found[7]
    assert (best.difference, best.error) == (0.0, 0.0)
    assert found[6].difference == pytest.approx(0.1)
    assert found[6].error == pytest.approx(0.1)
    assert found[6].as_good, "one utterance more says nothing"
    assert found[5].error == pytest.approx(0.4 / 3)  # of two in ten: sqrt(0.2 * 0.8 / 9)
    assert [point.as_good for point in found] == [False] * 6 + [True] * 5
    assert choose(found, "min").share == 0.6
    assert all(point.kept is None for point in found)
    assert searched(ACCURACY, wrong)[1].difference == pytest.approx(0.1), "positive is worse"


def test_only_shares_that_are_as_good_are_tried_on_other_splits():
    wrong = dict(zip(SHARES, (9, 8, 7, 4, 3, 3, 3, 1, 1, 1, 1), strict=True))
    found = searched(WER, wrong, ("select_a", "select_b"))
    assert [point.kept for point in found[7:]] == pytest.approx([0.7, 0.8, 0.9, 1.0])
    assert choose(found, "min").share == 0.7
    assert all(point.kept is None for point in found if not point.as_good)


def test_a_search_without_any_figure_is_an_error():
    metric = Metric("cer", "CER %")
    with pytest.raises(UserError, match="no share has a finite cer"):
        search(Task(), metric, "eval", {}, Mixture(), lambda rows: Evaluation("wer", 0))
