from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint
from sft_speech.tasks.asr.seq2seq.recognition import Segment, Seq2SeqCounts, Writing, compression_ratio, words_of
from sft_speech.tasks.asr.seq2seq.transcripts import Transcripts


@pytest.fixture(scope="module")
def transcripts(tiny_seq2seq) -> Transcripts:
    return load_checkpoint(tiny_seq2seq("whisper")).transcripts


def segment(transcripts: Transcripts, text: str, times: list[float], language: str = "en", **more) -> Segment:
    """A window whose token n is heard from ``times[n]`` to ``times[n + 1]``."""
    tokens = np.array(transcripts.tokenizer(text, add_special_tokens=False).input_ids)
    assert len(times) == len(tokens) + 1
    values = {"avg_logprob": -0.5, "no_speech_prob": 0.1, "text": text.strip(), "start": 0.0, "seconds": times[-1]}
    return Segment(
        tokens,
        np.full(len(tokens), -0.5, np.float32),
        starts=np.array(times[:-1]),
        ends=np.array(times[1:]),
        language=language,
        **values | more,
    )


def words(transcripts: Transcripts, one: Segment, spaced: bool = True) -> list[tuple[str, float, float]]:
    found = words_of(one, transcripts, spaced)
    return [("".join(c.text for c in word), round(word[0].start, 3), round(word[-1].end, 3)) for word in found]


def test_tokens_are_joined_to_words_and_spaces_and_marks_take_no_time(transcripts: Transcripts) -> None:
    one = segment(transcripts, " the c.", [0.0, 0.6, 0.7, 1.0, 1.1])  # " the", " ", "c", "."
    assert words(transcripts, one) == [("the", 0.0, 0.6), ("c.", 0.7, 1.0)]


def test_characters_share_the_time_of_their_token(transcripts: Transcripts) -> None:
    one = segment(transcripts, " the", [1.0, 1.6], start=10.0)
    (word,) = words_of(one, transcripts, True)
    assert [(c.text, round(c.start, 3), round(c.end, 3)) for c in word] == [
        ("t", 11.0, 11.2),
        ("h", 11.2, 11.4),
        ("e", 11.4, 11.6),
    ]


def test_the_bytes_of_a_character_stay_together(transcripts: Transcripts) -> None:
    one = segment(transcripts, "ä!", [0.0, 0.1, 0.2, 0.4])
    (word,) = words_of(one, transcripts, True)
    assert [(c.text, c.start, c.end) for c in word] == [("ä", 0.0, 0.2), ("!", 0.2, 0.2)]


def test_without_spaces_each_token_is_a_word_with_the_signs_after_it(transcripts: Transcripts) -> None:
    one = segment(transcripts, "你好。", [n / 10 for n in range(10)], "zh")  # three bytes each
    assert words(transcripts, one, spaced=False) == [("你", 0.0, 0.3), ("好。", 0.3, 0.6)]


def test_words_and_characters_of_windows_follow_each_other(transcripts: Transcripts) -> None:
    first = segment(transcripts, " the a", [0.0, 0.5, 0.6, 0.9])
    second = segment(transcripts, " the", [0.1, 0.4], start=5.0)
    found = Writing(text="the a the", seconds=6.0, segments=(first, second), transcripts=transcripts)
    words, characters = found.spans()
    assert [word.text for word in words] == ["the", "a", "the"]
    assert [round(word.start, 3) for word in words] == [0.0, 0.6, 5.1]
    assert "".join(one.text for one in characters) == found.text
    assert found.tokens.tolist() == [*first.tokens, *second.tokens]
    assert found.avg_logprob == pytest.approx(-0.5)


def test_confidence_is_that_of_the_tokens_of_each_word(transcripts: Transcripts) -> None:
    """Of the tokens " the", " ", "c" and ".", the word "c." has the third: marks do not count."""
    one = segment(transcripts, " the c.", [0.0, 0.6, 0.7, 1.0, 1.1], avg_logprob=-0.3)
    one.logprobs[:] = np.log([0.5, 0.9, 0.25, 0.1])
    bare = replace(one, starts=None, ends=None)
    other = segment(transcripts, "!", [0.0, 0.1], avg_logprob=-1.0)
    other.logprobs[:] = np.log(0.2)
    found = Writing(text="the c. the c. !", seconds=3.0, segments=(one, bare, other), transcripts=transcripts)
    assert found.word_confidences() == pytest.approx((0.5, 0.25, 0.5, 0.25, 0.2))
    assert [word.text for word in found.spans()[0]] == ["the", "c.", "!"]  # one window has no times
    # 4 tokens and an end each, of a mean of -0.3, and 1 token and an end of a mean of -1
    assert found.confidence == pytest.approx(np.exp(-(10 * 0.3 + 2 * 1.0) / 12))


def test_windows_without_speech_do_not_count(transcripts: Transcripts) -> None:
    one = segment(transcripts, " the", [0.0, 0.6], avg_logprob=-0.5)
    silent = replace(one, text="", avg_logprob=-3.0)
    found = Writing(text="the", seconds=2.0, segments=(silent, one), transcripts=transcripts)
    assert (found.confidence, len(found.word_confidences())) == (pytest.approx(np.exp(-0.5)), 1)
    nothing = Writing(text="", seconds=1.0, segments=(silent,), transcripts=transcripts)
    assert (nothing.confidence, nothing.word_confidences()) == (None, ())


def test_a_word_of_two_tokens(transcripts: Transcripts) -> None:
    one = segment(transcripts, "ä!", [0.0, 0.1, 0.2, 0.4])  # two bytes, and a mark
    one.logprobs[:] = np.log([0.4, 0.9, 0.1])
    found = Writing(text="ä!", seconds=1.0, segments=(one,), transcripts=transcripts)
    assert found.word_confidences() == pytest.approx((0.6,))  # the root of 0.36


def test_the_language_is_that_of_most_of_the_recording(transcripts: Transcripts) -> None:
    parts = [segment(transcripts, " the", [0.0, s], language, seconds=s) for language, s in (("de", 3.0), ("en", 9.0))]
    assert Writing(text="", seconds=12.0, segments=tuple(parts), transcripts=transcripts).language == "en"


def test_counts_add_up() -> None:
    counts = Seq2SeqCounts(windows=2, tokens=8, logprob=-5.0) + Seq2SeqCounts(windows=1, tokens=1, cut=1, logprob=-1.0)
    assert counts.mean_logprob == pytest.approx(-0.5)
    assert counts.summary() == "1 of 3 texts without an end"
    assert "temperature_fallback" in counts.warning(1.0)
    assert Seq2SeqCounts(windows=100, cut=1).warning(1.0) == ""
    assert Seq2SeqCounts().mean_logprob == 0


def test_a_text_that_repeats_itself_compresses_well() -> None:
    assert compression_ratio("so be it " * 30) > 2.4 > compression_ratio("a stitch in time saves nine, they say")
