"""Which transcripts are disputed."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tools.check.disputes import chance, disputed

LONG = np.full(40, 50)


def test_a_transcript_at_chance_is_disputed_by_a_weak_model_too():
    weak = np.linspace(0.4, 0.85, 40)
    weak[7] = 1.02
    assert np.flatnonzero(disputed(weak, LONG)).tolist() == [7]


def test_a_partly_wrong_transcript_is_disputed_by_a_good_model():
    good = np.linspace(0.0, 0.1, 40)
    good[[3, 9]] = 0.3, 0.5
    assert np.flatnonzero(disputed(good, LONG)).tolist() == [9]
    assert not disputed(np.linspace(0.3, 0.7, 40), LONG).any()


def test_a_model_that_is_no_more_than_fair_disputes_only_what_is_at_chance():
    """The embedded recognizer disputed a faultless transcript with 0.72, at a median of 0.33."""
    fair, better = np.linspace(0.25, 0.4, 40), np.linspace(0.15, 0.25, 40)
    for misfit in (fair, better):
        misfit[[3, 9]] = 0.8, 0.95
    assert np.flatnonzero(disputed(fair, LONG)).tolist() == [9]
    assert np.flatnonzero(disputed(better, LONG)).tolist() == [3, 9]


def test_short_texts_are_judged_only_by_good_models():
    lengths = LONG.copy()
    lengths[5] = 4
    weak, good = np.linspace(0.4, 0.8, 40), np.linspace(0.0, 0.1, 40)
    weak[5] = good[5] = 1.2
    assert not disputed(weak, lengths).any()
    assert np.flatnonzero(disputed(good, lengths)).tolist() == [5]


def test_few_utterances_are_not_judged():
    assert not disputed(np.array([0.1, 0.1, 1.5]), np.full(3, 50)).any()
    assert disputed(np.zeros(0), np.zeros(0)).tolist() == []


def test_chance_is_the_error_rate_of_other_transcripts_of_that_length():
    references = ["aaaa", "bbbb", "cccc", "dddd", "aaaa"]
    assert chance(references, ["aaaa", "aaaa", "", "dd", "aaaa"]).tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.0])
    # Against "abxx" and "xxxx" it is right in two letters and in none.
    assert chance(["abcd", "abxx", "xxxx"], ["abcd"] * 3)[0] == pytest.approx(0.75)
    assert chance(["one"], ["two"]).tolist() == [1.0]


def test_a_hypothesis_that_the_model_is_not_sure_of_disputes_nothing():
    good = np.full(40, 0.1)
    good[[5, 9]] = 1.0
    sure = np.full(40, 0.9)
    sure[5] = 0.49
    assert np.flatnonzero(disputed(good, LONG, sure)).tolist() == [9]
    weak, sure = np.full(40, 0.7), np.linspace(0.6, 0.7, 40)
    weak[[2, 30]] = 1.0  # the model is less sure of the first one than of nine tenths of the others
    assert np.flatnonzero(disputed(weak, LONG)).tolist() == [2, 30]
    assert np.flatnonzero(disputed(weak, LONG, sure)).tolist() == [30]
    good[2] = 1.0  # a good model may be less sure of some than of others
    assert np.flatnonzero(disputed(good, LONG, sure)).tolist() == [2, 5, 9]
