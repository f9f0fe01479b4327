"""The real recordings that come with the package."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from sft_speech.audio.read import read
from sft_speech.corpora import load_corpus

DIGITS = Path(str(files("sft_speech").joinpath("assets/digits")))
WORDS = "zero one two three four five six seven eight nine".split()


@pytest.mark.parametrize(("split", "speakers"), [("train", {"george", "lucas", "nicolas"}), ("test", {"jackson"})])
def test_ten_recordings_of_each_digit_by_other_speakers(split: str, speakers: set[str]) -> None:
    corpus = load_corpus(DIGITS, split)
    assert Counter(corpus["text"]) == dict.fromkeys(WORDS, 10)
    assert set(corpus["speaker"]) == speakers
    assert all(0.1 < seconds < 2 for seconds in corpus["seconds"])


def test_they_are_sounds() -> None:
    loudest = [abs(read(row["audio"], 16_000)).max() for row in load_corpus(DIGITS)]
    assert len(loudest) == 200
    assert all(0.01 < peak <= 1 for peak in loudest)


def test_they_are_small_and_their_licence_is_with_them() -> None:
    assert sum(path.stat().st_size for path in DIGITS.rglob("*") if path.is_file()) < 1_000_000
    assert {path.suffix for path in DIGITS.rglob("*") if path.is_file()} == {".flac", ".csv", ""}
    notice = (DIGITS / "NOTICE").read_text()
    assert "Free Spoken Digit Dataset" in notice
    assert "CC BY-SA 4.0" in notice
