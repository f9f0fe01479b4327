from __future__ import annotations

import pyarrow as pa
import pytest

from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.text.unspelt import unspelt_by, warn_of_unspelt

LETTERS = set("abcdefghijklmnopqrstuvwxyzäöüß")
TEXTS = ["Hallo!", "25 Jahre, 80,5 kg", "AT&T", "½", "٣", "a^b-c]"]


def test_numbers_of_an_unknown_language_stay_and_are_named(caplog):
    normalize = TranscriptNormalizer(LETTERS, "lower", None)
    found = normalize("25 Jahre, 80,5 kg, 3 %")
    assert found.text == "jahre kg"
    assert found.missing == {"2": 1, "5": 2, "8": 1, "0": 1, "3": 1, "%": 1}
    assert TranscriptNormalizer(None, "lower", None)("25 Jahre").text == "25 jahre"
    warn_of_unspelt(normalize, "train", [f"u{number}" for number in range(6)], TEXTS)
    assert caplog.messages == [
        "train: 4 of 6 transcripts have numbers or symbols that are not spelled out, because their language is not "
        "known: give it, such as --language de; the first is u1: “25 Jahre, 80,5 kg”"
    ]


@pytest.mark.parametrize(
    ("alphabet", "language", "rows"),
    [
        (LETTERS, "de", None),
        (LETTERS, "el", 3),  # num2words has no Greek; & is counted as a missing character
        (LETTERS | set("0123456789"), None, 1),
        (LETTERS | set("0123456789&%+=@°#×÷"), None, None),
        (None, None, 4),
    ],
)
def test_what_a_normalizer_leaves(alphabet, language, rows):
    unspelt = unspelt_by(TranscriptNormalizer(alphabet, "lower", language))
    assert (unspelt and unspelt.count(pa.chunked_array([TEXTS[:2], TEXTS[2:]]))) == rows


def test_texts_without_numbers_are_fine(caplog):
    warn_of_unspelt(TranscriptNormalizer(LETTERS, "lower", None), "train", ["a", "b"], ["It's plain.", "English: yes!"])
    warn_of_unspelt(str.lower, "train", ["a"], ["25"])
    assert caplog.messages == []


def test_a_language_without_words_for_numbers():
    line = unspelt_by(TranscriptNormalizer(LETTERS, "lower", "ta")).summary(["a"], ["25"])
    assert line.endswith("because there are no words for numbers in Tamil: write them in words; the first is a: “25”")
