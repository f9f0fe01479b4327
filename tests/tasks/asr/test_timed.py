from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tasks.asr.ctc.vocabulary import Characters, tokenizer_of
from sft_speech.tasks.asr.recognizer import Span
from sft_speech.tasks.asr.timed import TimedHypothesis


def recognized(text: str) -> TimedHypothesis:
    """A hypothesis whose characters take 0.1 s each."""
    vocabulary = Characters(tokenizer_of(["<pad>", "<unk>", "|", *sorted({*text} - {" "})]))
    tokens = np.array(vocabulary.encode(text))
    frames = np.arange(len(tokens))
    return TimedHypothesis(
        text=text,
        seconds=100.0,
        tokens=tokens,
        starts=frames,
        ends=frames + 1,
        probabilities=np.array([0.5, 1.0, 1.0, 0.5, 0.9, 0.25, 1.0, 1.0] * 3)[: len(tokens)],
        frame_seconds=0.1,
        vocabulary=vocabulary,
    )


def test_each_letter_is_a_word_without_spaces_between_words():
    words, characters = recognized("今日は、カップ").spans()
    assert [word.text for word in words] == ["今", "日", "は、", "カ", "ッ", "プ"]
    assert words[2] == Span("は、", pytest.approx(0.2), pytest.approx(0.4), glued=True)
    assert [one.text for one in characters] == [*"今日は、カップ"]


def test_marks_stay_with_their_letters_and_spaces_are_kept():
    words, characters = recognized("ที่นี่มีดีมาก ครับ").spans()
    assert [(word.text, word.glued) for word in words][:4] == [("ที่", False), ("นี่", True), ("มี", True), ("ดี", True)]
    assert "".join(one.text for one in characters) == "ที่นี่มีดีมาก ครับ"
    assert next(word for word in words if word.text == "ค") == Span("ค", pytest.approx(1.4), pytest.approx(1.5))


def test_words_with_spaces_are_whole():
    words, _ = recognized("good day").spans()
    assert [(word.text, word.glued) for word in words] == [("good", False), ("day", False)]


def test_confidence_is_the_geometric_mean_of_the_tokens():
    found = recognized("good day")
    assert found.word_confidences() == pytest.approx([0.5**0.5, 0.25 ** (1 / 3)])  # without the space
    assert found.confidence == pytest.approx((0.5 * 0.5 * 0.9 * 0.25) ** (1 / 8))
    assert recognized("").confidence is None
    assert recognized("").word_confidences() == ()
    for text in ("今日は、カップ", "ที่นี่มีดีมาก ครับ"):
        found = recognized(text)
        assert len(found.word_confidences()) == len(found.spans()[0])
