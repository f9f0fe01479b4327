from __future__ import annotations

import numpy as np
import pytest

from sft_speech.metrics.intervals import bootstrap_interval, compare, compare_rows, holm, mean, replicates
from sft_speech.metrics.words import Errors, compare_rates, interval


def of_values(values):
    return np.stack([values, np.ones(len(values))], axis=1)


def macro_f1(sums):
    """Sums (R, 3 C): true positives, false positives and false negatives of C classes."""
    hits, wrong, missed = np.split(sums, 3, axis=1)
    return (2 * hits / np.maximum(2 * hits + wrong + missed, 1)).mean(axis=1)


def of_predictions(labels, predictions, classes):
    right = labels == predictions
    one_hot = np.eye(classes)
    truth, guess = one_hot[labels], one_hot[predictions]
    return np.concatenate([truth * right[:, None], guess * ~right[:, None], truth * ~right[:, None]], axis=1)


def test_the_interval_of_a_word_error_rate_is_the_published_one():
    rng = np.random.default_rng(1)
    errors = [Errors(hits=10 - int(n), substitutions=int(n)) for n in rng.binomial(10, 0.2, 50)]
    by_utterance = interval(errors)
    by_speaker = interval(errors, [f"s{n % 7}" for n in range(50)], seed=3)
    # computed by a loop that draws one resample after the other
    assert (by_utterance.low, by_utterance.high) == (0.178, 0.24204999999999996)
    assert (by_speaker.low, by_speaker.high, by_speaker.over) == (0.18627450980392157, 0.23265306122448978, "speakers")


def test_many_utterances_are_drawn_in_pieces_that_change_nothing():
    values = np.random.default_rng(0).integers(0, 9, 9000).astype(float)
    rng = np.random.default_rng(5)
    means = [values[rng.integers(0, 9000, 9000)].mean() for _ in range(1000)]
    found = bootstrap_interval(of_values(values), mean, seed=5)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), rel=1e-12)


def test_accuracy_and_macro_f1_have_intervals():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    predictions = np.where(rng.random(600) < 0.8, labels, (labels + 1) % 3)
    units = of_predictions(labels, predictions, 3)
    score = float(macro_f1(units.sum(0, keepdims=True))[0])
    found = bootstrap_interval(units, macro_f1)
    assert found.low < score < found.high
    # errors are independent and spread evenly, so F1 varies about as accuracy does: 1.96 sqrt(.8 * .2 / 600) = 0.032
    assert found.high - found.low == pytest.approx(2 * 0.032, rel=0.25)
    accuracy = bootstrap_interval(of_values((labels == predictions).astype(float)), mean)
    assert accuracy.low < (labels == predictions).mean() < accuracy.high


def test_nothing_has_no_interval():
    assert np.isnan(bootstrap_interval(np.zeros((0, 2)), mean).low)


def test_two_systems_that_share_their_hard_utterances_differ():
    """Unpaired, the intervals overlap; paired, the better one is better on nearly every resample."""
    rng = np.random.default_rng(0)
    hard = rng.random(300) < 0.3
    first = [Errors(hits=2, substitutions=8) if one else Errors(hits=10) for one in hard]
    worse = rng.random(300) < 0.1
    second = [one + Errors(insertions=1) if more else one for one, more in zip(first, worse, strict=True)]
    assert interval(second).low < interval(first).high
    found = compare_rates(second, first)
    assert found.difference == pytest.approx(worse.sum() / 3000)
    assert 0 < found.interval.low < found.difference < found.interval.high
    assert found.p_value < 0.01
    back = compare_rates(first, second)
    assert back.difference == -found.difference
    assert back.p_value == found.p_value


def test_a_system_does_not_differ_from_itself_nor_from_its_shuffled_errors():
    rng = np.random.default_rng(2)
    values = rng.binomial(10, 0.2, 200).astype(float)
    assert compare(of_values(values), of_values(values), mean).p_value == 1
    assert compare(of_values(values), of_values(rng.permutation(values)), mean).p_value > 0.5


def test_p_values_are_those_of_a_normal_distribution():
    drawn = np.random.default_rng(4).normal(size=400)
    differences = (drawn - drawn.mean()) / drawn.std() + 0.1  # two standard errors of the mean, 1 / sqrt(400) each
    found = compare(of_values(differences), of_values(np.zeros(400)), mean)
    assert found.p_value == pytest.approx(0.0455, abs=0.02)
    assert found.interval.low == pytest.approx(0.1 - 1.96 / 20, abs=0.01)


def test_the_standard_error_of_a_difference():
    """Of a mean it is that of the textbook; utterances have weights; whole speakers are left out."""
    rng = np.random.default_rng(6)
    values, nothing = rng.normal(size=40), np.zeros(40)
    found = compare(of_values(values), of_values(nothing), mean)
    assert found.error == pytest.approx(values.std(ddof=1) / 40**0.5)
    once = np.eye(1, 40).ravel()
    found = compare(of_values(once), of_values(nothing), mean)
    assert found.error == pytest.approx(found.difference, rel=1e-12), "a single error more is one standard error"
    errors, words = np.array([3.0, 0, 0, 1]), np.array([10.0, 2, 4, 4])
    first, second = np.stack([errors, words], 1), np.stack([0 * errors, words], 1)
    without = [(4 - e) / (20 - w) for e, w in zip(errors, words, strict=True)]
    assert compare(first, second, mean).error == pytest.approx((3 * np.var(without)) ** 0.5)
    speakers = [f"s{n % 5}" for n in range(40)]
    by_speaker = values.reshape(8, 5).mean(0)
    found = compare(of_values(values), of_values(nothing), mean, speakers)
    assert found.error == pytest.approx(by_speaker.std(ddof=1) / 5**0.5)
    assert compare(of_values(values[:1]), of_values(nothing[:1]), mean).error == 0


def test_speakers_are_drawn_for_both_systems():
    speakers = [f"s{n % 6}" for n in range(60)]
    one = of_values(np.array([float(n % 6 == 0) for n in range(60)]))
    found = compare(one, of_values(np.zeros(60)), mean, speakers)
    assert found.interval.over == "speakers"
    assert found.interval.low == 0  # the one speaker that differs is often not drawn
    assert found.p_value > 0.5


@pytest.mark.parametrize(("first", "second"), [(3, 2), (0, 0)])
def test_unequal_or_no_utterances_are_refused(first, second):
    with pytest.raises(ValueError, match="a paired test"):
        compare(np.ones((first, 2)), np.ones((second, 2)), mean)


def test_lines_of_two_evaluations_are_paired_by_their_ids():
    rng = np.random.default_rng(5)
    first = [{"id": str(n), "errors": float(n % 3), "words": 4.0} for n in range(90)]
    second = [row | {"errors": row["errors"] + 1} for row in first]
    rng.shuffle(second)
    found = compare_rows(first, second, lambda row: (row["errors"], row["words"]), mean)
    assert found is not None
    assert (found.difference, found.interval.low, found.interval.high) == pytest.approx((-0.25, -0.25, -0.25))


@pytest.mark.parametrize(("first", "second"), [("", ""), ("abc", "ab"), ("abc", "abd"), ("abcc", "abc")])
def test_other_utterances_are_not_compared(first, second):
    rows, others = ([{"id": id} for id in ids] for ids in (first, second))
    assert compare_rows(rows, others, lambda row: (1, 1), mean) is None


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_replicates_of_two_systems_share_their_resamples():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, 40).astype(float)
    twice = np.stack([values, values], axis=1)
    found, over = replicates(twice, lambda sums: sums, resamples=50)
    assert (found.shape, over) == ((50, 2), "utterances")
    assert (found[:, 0] == found[:, 1]).all()
    assert len(set(found[:, 0])) > 10
