from __future__ import annotations

import pytest

from sft_speech.metrics.calibration import Calibration, confidences_after, right_words


def test_bins_and_the_expected_error_are_literal():
    words = [(0.95, True), (0.91, True), (1.0, False), (0.8, True), (0.75, False), (0.0, False)]
    found = Calibration.of(words)
    assert found.bins() == [
        {"low": 0.0, "high": 0.1, "words": 1, "confidence": 0.0, "right": 0.0},
        {"low": 0.7, "high": 0.8, "words": 2, "confidence": pytest.approx(0.775), "right": 0.5},
        {"low": 0.9, "high": 1.0, "words": 3, "confidence": pytest.approx(2.86 / 3), "right": pytest.approx(2 / 3)},
    ]
    assert found.error == pytest.approx((2 * 0.275 + (2.86 - 2)) / 6)
    assert found.to_dict()["words"] == 6
    assert found.lines() == [
        "confidence     words  right %   expected calibration error 23.5 %",
        "0.9 to 1.0         3     66.7",
        "0.7 to 0.8         2     50.0",
        "0.0 to 0.1         1      0.0",
    ]


def test_a_word_is_right_if_it_is_aligned_with_the_same_word():
    assert right_words("the cat sat", "the bat sat down") == [True, False, True, False]
    assert right_words("the cat sat", "cat") == [True]
    assert right_words("", "hello") == [False]
    assert right_words("the", "") == []


def test_confidences_follow_their_words_through_a_normalizer():
    def normalize(word: str) -> list[str]:
        return {"won't": ["will", "not"], "uh": []}.get(word, [word])

    assert confidences_after([("Yes", 0.5), ("no", 0.7)], ["yes", "no"], normalize) == [0.5, 0.7]
    words = [("uh", 0.1), ("I", 0.9), ("won't", 0.4), ("go", 0.8)]
    assert confidences_after(words, ["I", "will", "not", "go"], normalize) == [0.9, 0.4, 0.4, 0.8]
    assert confidences_after(words, ["I", "will", "not", "go", "on"], normalize) == [0.9, 0.4, 0.4, 0.8, 0.625]
    twenty = [("twenty", 0.6), ("one", 0.2), ("dogs", 1.0)]
    assert confidences_after(twenty, ["21", "dogs"], normalize) == [pytest.approx(0.4), 1.0]
    assert confidences_after([("uh", 0.1)], ["a", "b"], normalize) == [0.0, 0.0]
