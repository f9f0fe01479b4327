"""The recognizer that judges synthesized speech."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np

from sft_speech.text.normalize import Normalized
from sft_speech.tools.evaluate_tts import RecognizerJudge


class Transcriber:
    def __init__(self, text: str, default_normalizer: str) -> None:
        self.text = text
        self.checkpoint = SimpleNamespace(
            normalizer=lambda text: Normalized(text.upper(), Counter()),
            default_normalizer=default_normalizer,
            language="en",
            spellings={},
        )

    def __call__(self, audio):
        return SimpleNamespace(text=self.text)


def test_a_judge_that_writes_ordinary_text_ignores_case_and_punctuation():
    judge = RecognizerJudge(Transcriber("It's 21.", "whisper"))
    row = judge.score("It is twenty-one!", np.zeros(8, np.float32), 16_000)
    assert row["hypothesis"] == "It's 21."
    assert row["word_errors"] == {"hits": 3, "substitutions": 0, "deletions": 0, "insertions": 0}
    assert judge.summary([row]) == {
        "normalizer": "whisper without spellings",
        "wer": 0.0,
        "wer_interval": [0.0, 0.0],
        "cer": 0.0,
        "cer_interval": [0.0, 0.0],
    }


def test_a_judge_with_an_alphabet_compares_in_its_letters():
    judge = RecognizerJudge(Transcriber("ITS TWO", "checkpoint"))
    row = judge.score("its too", np.zeros(8, np.float32), 16_000)
    assert row["word_errors"] == {"hits": 1, "substitutions": 1, "deletions": 0, "insertions": 0}
    assert judge.summary([row])["normalizer"] == "checkpoint"
