"""The judgement: order does not matter, intervals and tests are paired, the evaluation split decides."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparisons import ACCURACY, classified, compared, finished, recognized, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.errors import UserError
from sft_speech.metrics.utterances import common, read_lines
from sft_speech.options.spec import Metric
from sft_speech.tools.compare.judge import effects, judge, more_utterances
from sft_speech.tools.compare.report import to_dict

error_counts = st.lists(st.lists(st.integers(0, 12), min_size=8, max_size=8), min_size=2, max_size=4)


@settings(max_examples=15, deadline=None)
@given(counts=error_counts, order=st.randoms(use_true_random=False), speakers=st.sampled_from([0, 2, 6]))
def test_the_same_files_give_the_same_answer_in_any_order(counts, order, speakers):
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [finished(Path(folder), f"c{n}", recognized(one, 10, speakers)) for n, one in enumerate(counts)]
        first = to_dict(judge(compared(outcomes)))
        order.shuffle(outcomes)
        assert to_dict(judge(compared(outcomes))) == first


@settings(max_examples=15, deadline=None)
@given(counts=error_counts)
def test_intervals_hold_their_figures_and_the_best_is_the_lowest(counts):
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [finished(Path(folder), f"c{n}", recognized(one)) for n, one in enumerate(counts)]
        found = judge(compared(outcomes))
    values = [one.scores["eval"].value for one in found.candidates]
    assert values == sorted(values) == pytest.approx(sorted(sum(one) / 80 for one in counts))
    for one in found.candidates:
        score = one.scores["eval"]
        assert score.interval.low <= score.value <= score.interval.high
        if one.versus is not None:
            assert one.versus.difference == pytest.approx(score.value - values[0])
            assert one.versus.difference >= 0
            assert 0 < one.versus.p_value <= 1
            assert one.alike == (one.versus.p_value >= 0.05)
            assert one.close <= one.alike


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(0, 10), min_size=6, max_size=20))
def test_equal_candidates_are_never_told_apart(counts):
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [finished(Path(folder), name, recognized(counts)) for name in "ab"]
        found = judge(compared(outcomes))
    assert [one.alike for one in found.candidates] == [True, True]
    assert found.candidates[1].versus.p_value == 1.0


def test_more_candidates_make_a_difference_less_certain(tmp_path):
    rng = np.random.default_rng(3)
    counts = [rng.binomial(10, share, 40).tolist() for share in (0.2, 0.27, 0.6, 0.6, 0.6, 0.6)]
    outcomes = [finished(tmp_path, f"c{n}", recognized(one)) for n, one in enumerate(counts)]
    p_values = [judge(compared(outcomes[:count])).candidates[1].versus.p_value for count in (2, 3, 6)]
    assert p_values[0] < 0.05  # alone it would count as different
    smallest = 2 / 10_001  # p-value of 10,000 resamples, times five
    assert p_values[2] == pytest.approx(
        max(p_values[0], 5 * smallest)
    )  # the others are surely worse, so Holm tests it last
    close = [finished(tmp_path, f"d{n}", recognized(counts[1])) for n in range(4)]
    among = judge(compared([*outcomes[:2], *close])).candidates[1].versus.p_value
    assert among == pytest.approx(5 * p_values[0])


def test_a_few_utterances_show_nothing(tmp_path):
    outcomes = [finished(tmp_path, name, recognized([errors] * 5)) for name, errors in (("a", 0), ("b", 9))]
    assert judge(compared(outcomes)).candidates[1].alike
    outcomes = [finished(tmp_path, name, recognized([errors] * 6)) for name, errors in (("a", 0), ("b", 9))]
    assert not judge(compared(outcomes)).candidates[1].alike


def test_whole_speakers_are_drawn_if_there_are_enough(tmp_path):
    rng = np.random.default_rng(0)
    hard = np.tile(rng.integers(0, 6, 6), 10)  # utterances of a speaker are alike
    for speakers, over in ((6, "speakers"), (0, "utterances")):
        lines = [recognized((hard + extra).tolist(), 10, speakers) for extra in (0, hard % 3)]
        found = judge(compared([finished(tmp_path, name, one) for name, one in zip("ab", lines, strict=True)]))
        assert (found.over, found.speakers) == (over, speakers)
        widths = found.candidates[0].scores["eval"].interval
        if speakers:
            by_speaker = widths.high - widths.low
    assert by_speaker > 1.5 * (widths.high - widths.low)


def test_the_evaluation_split_decides_and_test_splits_do_not(tmp_path):
    few, many = recognized([1] * 30), recognized([5] * 30)
    outcomes = [finished(tmp_path, "a", few, test=many), finished(tmp_path, "b", many, test=few)]
    found = judge(compared(outcomes, test=True))
    assert [one.name for one in found.candidates] == ["a", "b"]
    assert [one.scores["test"].value for one in found.candidates] == [0.5, 0.1]
    assert found.chosen.name == "a"


def test_higher_is_better_for_accuracy(tmp_path):
    outcomes = [
        finished(tmp_path, "low", classified([True, True, False] * 20), metric="accuracy"),
        finished(tmp_path, "high", classified([True] * 59 + [False]), metric="accuracy"),
    ]
    found = judge(compared(outcomes, ACCURACY))
    assert [one.name for one in found.candidates] == ["high", "low"]
    assert found.candidates[1].versus.difference == pytest.approx(-19 / 60)
    assert found.chance == 0.5
    assert not found.useless


def test_macro_f1_is_computed_from_the_lines(tmp_path):
    lines = classified([True] * 30 + [False] * 10)
    outcome = replace(finished(tmp_path, "a", lines, metric="macro_f1"), figures={"eval_macro_f1": 0.75})
    found = judge(compared([outcome], Metric("macro_f1", "macro F1 %", "max", 100)))
    score = found.candidates[0].scores["eval"]
    assert score.value == pytest.approx(0.75)
    assert score.interval.low < 0.75 < score.interval.high


def test_without_lines_there_are_figures_only(tmp_path):
    outcomes = [
        replace(finished(tmp_path, name, []), figures={"eval_wer": wer}) for name, wer in (("a", 0.2), ("b", 0.1))
    ]
    found = judge(compared(outcomes))
    assert [(one.name, one.scores["eval"].interval, one.versus) for one in found.candidates] == [
        ("b", None, None),
        ("a", None, None),
    ]
    assert (found.over, found.chosen.name) == ("", "b")


def test_different_utterances_are_refused_with_the_names(tmp_path):
    others = [line | {"id": f"other{line['id']}"} for line in recognized([1] * 20)]
    outcomes = [finished(tmp_path, "a", recognized([1] * 20)), finished(tmp_path, "b", others)]
    with pytest.raises(
        UserError, match=r"a and b: they were evaluated on different utterances of dev \(20 and 20, 0 of"
    ):
        judge(compared(outcomes))


def test_different_labels_of_the_same_clips_are_refused(tmp_path):
    lines = classified([True] * 20)
    other = [line | {"expected": "left"} if n == 3 else line for n, line in enumerate(lines)]
    outcomes = [finished(tmp_path, name, one, metric="accuracy") for name, one in (("a", lines), ("b", other))]
    with pytest.raises(UserError, match="1 utterance of dev with different labels, the first is c0003"):
        judge(compared(outcomes, ACCURACY))


def test_a_few_utterances_that_one_model_cannot_use_are_left_out(tmp_path):
    outcomes = [finished(tmp_path, "a", recognized([1] * 40)), finished(tmp_path, "b", recognized([2] * 39))]
    found = judge(compared(outcomes))
    assert found.utterances == 39
    assert found.notes == ["Left out of dev: 1 utterance that not every candidate evaluated"]


def test_recognizers_with_other_normalizers_are_scored_under_one(tmp_path):
    """A CTC model in capitals without digits, and a Whisper that writes digits and punctuation."""
    ctc = [
        {"id": f"u{n}", "reference": "At 5, she left.", "normalized_reference": "AT FIVE SHE LEFT"}
        | {"hypothesis": "AT FIVE SHE LEFT", "word_errors": 0, "words": 4, "character_errors": 0, "characters": 16}
        for n in range(8)
    ]
    whisper = [
        {"id": f"u{n}", "reference": "At 5, she left.", "normalized_reference": "at 5 she left"}
        | {"hypothesis": "At five she slept!", "normalized_hypothesis": "at 5 she slept"}
        | {"word_errors": 1, "words": 4, "character_errors": 2, "characters": 13}
        for n in range(8)
    ]
    outcomes = [finished(tmp_path, "ctc", ctc), finished(tmp_path, "whisper", whisper)]
    for outcome, name in zip(outcomes, ("checkpoint", "whisper"), strict=True):
        lines = ctc if outcome.name == "ctc" else whisper
        write_lines(outcome.folder / "evaluation", "dev", lines, normalizer=name)
    found = judge(compared(outcomes))
    assert [(one.name, one.scores["eval"].value) for one in found.candidates] == [("ctc", 0.0), ("whisper", 0.25)]
    assert "scored under the normalizer whisper without spellings" in found.notes[0]


def test_effects_are_means_over_the_finished_candidates_in_order_of_the_values(tmp_path):
    outcomes = [
        finished(tmp_path, f"{model} {rank}", recognized([errors] * 10), settings={"model": model, "lora_rank": rank})
        for model, rank, errors in (("a", 8, 1), ("a", 16, 2), ("b", 8, 3), ("b", 16, 3))
    ]
    found = effects(judge(compared(outcomes)))
    assert found == {
        "lora_rank": [("8", pytest.approx(0.2), 2), ("16", pytest.approx(0.25), 2)],
        "model": [("a", pytest.approx(0.15), 2), ("b", pytest.approx(0.3), 2)],
    }
    assert effects(judge(compared(outcomes[:1]))) == {}


def test_the_power_estimate_is_about_right():
    """With as many utterances as it asks for, about four of five pairs of this kind are told apart."""
    rng = np.random.default_rng(7)
    shown, asked = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(12):
            for size in (40, 250):
                base = rng.binomial(10, 0.2, size)
                other = np.minimum(base + rng.binomial(1, 0.25, size) - rng.binomial(1, 0.15, size) * (base > 0), 10)
                own = Path(folder) / f"{trial}-{size}"
                own.mkdir()
                lines = recognized(base.tolist()), recognized(other.tolist())
                found = judge(compared([finished(own, name, one) for name, one in zip("ab", lines, strict=True)]))
                versus = found.candidates[1].versus
                if size == 40:
                    asked.append(more_utterances(found, versus))
                else:
                    shown += versus.p_value < 0.05
    assert 40 < np.median([one if one is not None else 10**6 for one in asked]) < 1000
    assert 4 <= shown <= 12


def test_utterances_are_drawn_in_the_order_of_their_ids(tmp_path):
    lines = recognized([1, 2, 3, 4, 5, 6, 7, 8])
    outcomes = [finished(tmp_path, "a", lines[::-1]), finished(tmp_path, "b", lines[3:] + lines[:3])]
    read = {one.name: read_lines(one.folder / "evaluation", "dev") for one in outcomes}
    found, left_out = common(read, "dev", 0.05)
    assert left_out == 0
    assert [list(one) for one in found.values()] == [[f"u000{n}" for n in range(8)]] * 2


def test_the_checkpoint_before_training_does_not_depend_on_the_order(tmp_path):
    """Two runs of one model may have decoded it differently before training."""
    outcomes = [
        finished(tmp_path, name, recognized([2] * 20), before=recognized([errors] * 20), settings={"model": "tiny"})
        for name, errors in (("a", 5), ("b", 7))
    ]
    for order in (outcomes, outcomes[::-1]):
        before = judge(compared(order)).untrained
        assert (before.model, before.score.value) == ("tiny", 0.5)
