from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sft_speech.metrics.loops import compression_ratio, is_repetition, letters, loop_of

PROSE = (
    "The printers of Mainz soon had rivals in many towns, and within thirty years of the first printed Bible there "
    "were presses in every great city of Italy, where scholars corrected the proofs and merchants sold the books."
)
HINDI = (
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन "
    "प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।"
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes.",
        "no no no no no no no no",
        "nine nine nine nine nine nine nine nine nine nine",
        "zero one two zero one two zero one two zero one two",
        "ha ha ha ha ha ha ha ha",
        "1000000000000",
        "New York, New York, New York, New York!",
        PROSE,
        HINDI,
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    ],
)
def test_what_people_say(text):
    assert loop_of(text, 30.0) is None
    assert loop_of(text, 30.0, silent=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "thank you " * 10,
        "the" + " the" * 30,
        "Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        PROSE + " I don't know." * 8,
        "I'm sorry. I'm SORRY. " * 5,
        PROSE * 4,  # a unit too long to be searched for, which compresses too well
        "谢谢" * 12,
        "धन्यवाद " * 12,
    ],
)
def test_loops(text):
    assert loop_of(text, 1000.0) == "repetition"


def test_a_text_on_silence_and_an_impossible_speed():
    assert loop_of("Thank you.", 3.0, silent=True) == "silence"
    assert loop_of(" ", 3.0, silent=True) is None
    assert loop_of(PROSE, 2.0) == "speed"  # 216 letters, where 100 are possible
    assert loop_of(PROSE, 10.0) is None
    assert loop_of("seventeen", 0.1) is None
    assert letters("ab你ए안") == 9


def test_the_ratio_of_ascii_is_that_of_openai():
    text = PROSE.encode()
    assert compression_ratio(PROSE) == len(text) / len(zlib.compress(text))
    assert compression_ratio(HINDI) < 1.5  # 2.4 in UTF-8
    assert compression_ratio("") == 0


def test_a_long_text_is_judged_in_windows():
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(2, 9))) for _ in range(300)]
    chapter = " ".join(drawn.choices(words, k=4000))
    assert compression_ratio(chapter) > 2.4
    assert not is_repetition(chapter)
    assert is_repetition(chapter[:9000] + "they went away " * 40)


@given(st.text(max_size=80), st.floats(0, 60), st.sampled_from([None, True, False]))
@example("\ud800" * 3, 1.0, None)
def test_any_text_is_judged(text, seconds, silent):
    found = loop_of(text, seconds, silent)
    assert found in (None, "silence", "repetition", "speed")
    assert found is None or text.split()
    assert loop_of(text + " " * 50, seconds, silent) == found


@given(st.text("abcdefgh ", min_size=1, max_size=30).map(str.split).filter(bool).map(" ".join), st.integers(40, 60))
def test_any_phrase_that_is_repeated_often_is_a_loop(phrase, count):
    assert is_repetition(" ".join([phrase] * count))


@given(st.text(max_size=30))
def test_short_texts_that_say_nothing_twice_are_no_loops(text):
    assert not is_repetition(text)
