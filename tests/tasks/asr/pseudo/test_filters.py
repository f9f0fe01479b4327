"""Why labels are rejected, and what the report says."""

from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.tasks.asr.pseudo.filters import Filters, Label, judge, wer_between
from sft_speech.tasks.asr.pseudo.report import Outcome

GOOD = "It was the best of times."


def label(text: str = GOOD, confidence: float | None = 0.9, seconds: float = 2.0, **more) -> Label:
    return Label(text, confidence, seconds, **more)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (label(), None),
        (label(seconds=0.0, error="no audio"), "unreadable"),
        (label(error="it ends early"), "read in part"),
        (label("", None, silent=True), "no speech"),
        (label(silent=False), None),
        (label("", None), "empty"),
        (label(" ... "), "empty"),
        (label("so be it " * 30, seconds=20.0), "repetition"),
        (label(seconds=26.0), "characters per second"),  # 25 of them: 0.96 a second
        (label(seconds=25.0), None),
        (label(seconds=0.8), "characters per second"),  # 31.25
        (label("今日は", seconds=0.2), "characters per second"),  # wide ones count as three
        (label("今日は", seconds=0.4), None),
        (label(confidence=0.49), "low confidence"),
        (label(confidence=None), "low confidence"),
        (label(confidence=0.5), None),
    ],
)
def test_reasons(given, reason):
    why = Filters(min_confidence=0.5).why_not(given)
    assert (why and why[0]) == reason


def test_two_teachers_may_differ_in_a_tenth_of_the_words():
    ten = "one two three four five six seven eight nine ten"
    same, one, two = (ten.upper() + "!", ten.replace("nine", "mine"), ten.replace("nine ten", "mine tea"))
    filters = Filters()
    assert filters.why_not(label(ten, seconds=4.0), label(same)) is None
    assert filters.why_not(label(ten, seconds=4.0), label(one)) is None
    assert filters.why_not(label(ten, seconds=4.0), label(two)) == (
        "teachers differ",
        f"WER 20%, the other wrote: {two}",
    )
    assert Filters(max_wer=0.2).why_not(label(ten, seconds=4.0), label(two)) is None
    assert filters.why_not(label(ten, seconds=4.0), label("", None, silent=True))[0] == "teachers differ"


def test_differences_that_do_not_count():
    assert wer_between("Twenty-one, it's.", "21 it is", "en") == 0
    assert wer_between("Zwanzig!", "zwanzig", "de") == 0
    assert wer_between("今日は。", "今日も", "ja") == pytest.approx(1 / 3)


def test_the_most_confident_share_of_what_passes():
    labels = [label(confidence=one) for one in (0.3, 0.9, 0.5, 0.7)] + [label("", None)]
    kept = [one.why is None for one in judge(Filters(keep_share=0.5), labels)]
    assert kept == [False, True, False, True, False]
    why = [one.why for one in judge(Filters(keep_share=0.51), labels)]
    assert why == [("not among the most confident", "0.300"), None, None, None, ("empty", "")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 1.5},
        {"keep_share": 0.0},
        {"keep_share": 0.5, "min_confidence": 0.5},
        {"chars_per_second": (5.0, 5.0)},
        {"max_wer": float("nan")},
    ],
)
def test_filters_that_make_no_sense(wrong):
    with pytest.raises(UserError):
        Filters(**wrong)


def test_the_report_counts_hours_and_errors_by_reason():
    labels = [label("one two"), label("one too", 0.4), label("", None), label("a b c", 0.8)]
    judged = judge(Filters(min_confidence=0.5), labels)
    outcome = Outcome(judged, [1800.0, 3600.0, 3600.0, 1800.0], ["ONE TWO", "ONE TWO", "", "A B X"], labelled=3)
    found = outcome.to_dict()
    assert found["kept"] == {"rows": 2, "hours": 1.0, "wer": pytest.approx(1 / 5)}
    assert found["rejected"] == {
        "low confidence": {"rows": 1, "hours": 1.0, "wer": pytest.approx(1 / 2)},
        "empty": {"rows": 1, "hours": 1.0},
    }
    assert (found["rows"], found["hours"], found["labelled_before"]) == (4, 3.0, 3)
    assert found["wer"] == pytest.approx(2 / 7)
    assert [(one["low"], one["high"], one["rows"]) for one in found["confidence"]["groups"]] == [
        (0.4, 0.4, 1),
        (0.8, 0.8, 1),
        (0.9, 0.9, 1),
    ]
    assert found["confidence"]["quantiles"]["0.5"] == 0.8
    table = outcome.table()
    assert "kept                                   2     1.00   50.0%   20.00" in table
    assert "rejected: low confidence               1     1.00   25.0%   50.00" in table
    assert "rejected: empty                        1     1.00   25.0%\n" in table
    assert "3 rows have a transcript and got no label" in table
