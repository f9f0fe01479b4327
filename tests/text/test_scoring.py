from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.text.scoring import Scoring, has_marks, make_scoring, normalizer_for, split_letters


def scoring(name: str, language: str | None = "en", spellings: dict[str, str] | None = None) -> Scoring:
    return make_scoring(name, language, str.upper, spellings or {})


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Twenty-one!", "21"),
        ("21", "21"),
        ("It's 5%, isn't it?", "it is 5% is not it"),
        ("Um, $20 million [laughter]", "$20000000"),
        ("colour", "colour"),
        ("Hmm.", ""),
    ],
)
def test_whisper(text, normalized):
    assert scoring("whisper").reference(text) == scoring("whisper").hypothesis(text) == normalized


def test_spellings_of_the_checkpoint():
    with_table = scoring("whisper", spellings={"colour": "color"})
    assert (with_table.name, with_table.reference("The Colour")) == ("whisper", "the color")
    assert scoring("whisper").name == "whisper without spellings"


def test_basic_in_german():
    german = scoring("basic", "de")
    assert german.name == "basic"
    assert german.reference(" „Grüße“, Herr Müller! (lacht)  21 ") == "grüße herr müller 21"
    assert german.words("grüße herr") == "grüße herr"


@pytest.mark.parametrize("language", ["zh", "ja", "th", "yue", "zh-CN"])
def test_letters_are_words_where_words_have_no_spaces(language):
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    found = scoring("basic", language)
    assert found.name == "basic, letters split"
    for text in ("你好，世界！", "ลำดับ นี้", "カップ 12 OK"):
        split = " ".join(BasicTextNormalizer(split_letters=True)(text).split())
        assert found.words(found.reference(text)) == split
        assert found.reference(text) == split.replace(" ", "")
    assert scoring("none", language).name == "none, letters split"
    own = scoring("checkpoint", language)
    assert (own.name, own.spaced) == ("checkpoint, letters split", False)
    assert (own.reference("a b"), own.hypothesis("a b"), own.words("ab")) == ("AB", "ab", "a b")


def test_none_and_checkpoint():
    plain = scoring("none")
    assert (plain.name, plain.reference(" It's\n5 %. "), plain.hypothesis("A  b")) == ("none", "It's 5 %.", "A b")
    own = scoring("checkpoint")
    assert (own.name, own.reference("it's"), own.hypothesis("it's")) == ("checkpoint", "IT'S", "it's")


def test_the_default_of_a_language():
    usual = {"en": "whisper", "en_IN": "whisper", "en-GB": "whisper", "de": "basic", "enm": "basic", None: "basic"}
    assert {language: normalizer_for(language) for language in usual} == usual


def test_marks_that_basic_cuts_words_at():
    assert scoring("basic", "hi").reference("हिन्दी") == "ह न द"
    assert has_marks("हिन्दी")
    assert not has_marks("Grüße, naïve, ế 你好")
    assert split_letters("हि नी") == ["हि", "नी"]


@given(st.text())
def test_letters_hold_every_character_but_spaces(text):
    assert "".join(split_letters(text)) == "".join(text.split())


def test_both_sides_are_in_one_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for name in ("none", "basic", "whisper"):
        both = scoring(name, "fr")
        assert both.reference(composed) == both.hypothesis(decomposed)
    assert scoring("none", "fr").words(decomposed) == composed
    uzbek = scoring("basic", "uz")
    assert {uzbek.reference(f"o{sign}zbek") for sign in "'ʻ‘’ʼ`"} == {"o zbek"}
    assert scoring("whisper").reference("it’s") == scoring("whisper").hypothesis("it's") == "it is"


def test_a_hypothesis_is_written_in_the_form_of_the_vocabulary():
    normalizer = TranscriptNormalizer({"\u0958", "ल", "ʻ", "o"}, "keep", "hi")
    own = make_scoring("checkpoint", "hi", lambda text: normalizer(text).text, {}, normalizer.form)
    assert own.reference("\u0915\u093cल o'") == own.hypothesis("\u0915\u093cल oʻ") == "\u0958ल oʻ"


def test_letters_are_words_if_the_references_have_no_spaces():
    own = make_scoring("checkpoint", "en", str, {}, spaced=False)
    assert (own.name, own.reference("你 好"), own.words("你好")) == ("checkpoint, letters split", "你好", "你 好")
