from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.tasks.tts.text import SpeakableText, split_sentences

TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *",.?!'-\""]


@pytest.fixture(scope="module")
def speakable():
    return SpeakableText(TOKENS)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("IT WAS LATE", "it was late"),
        ("It was late.", "It was late."),
        ("In 1999 it cost $5, Mr. Smith!", "In nineteen ninety-nine it cost five dollars, mister Smith!"),
        ("Dr Jones and Mrs. Brown", "doctor Jones and missis Brown"),
        ("café naïve", "cafe naive"),
        ("50% & more", "fifty percent and more"),
        ("the gen pool of col", "the gen pool of col"),  # no period, no name after it
        ("MR. SMITH SAID", "mister smith said"),
        ("see https://a.b/c.", "see a dot b slash c."),
    ],
)
def test_normalization(speakable, text, normalized):
    assert speakable(text).text == normalized


def test_removed_characters_are_counted(speakable):
    normalized = speakable("hi 你好 😀")
    assert normalized.text == "hi"
    assert normalized.missing["你"] == normalized.missing["好"] == 1


def test_a_vocabulary_of_capitals_gets_capitals():
    assert SpeakableText(["<pad>", "▁", *string.ascii_uppercase])("Hello there").text == "HELLO THERE"


@pytest.mark.parametrize(
    ("text", "longest", "pieces"),
    [
        ("One. Two. Three.", 100, ["One. Two. Three."]),
        ("One is one. Two is two. Three.", 19, ["One is one.", "Two is two. Three."]),
        ("a b, c d, e f", 8, ["a b,", "c d, e f"]),
        ("aaa bbb ccc", 7, ["aaa bbb", "ccc"]),
        ("aaa bbb ccc ddd eee", 15, ["aaa bbb ccc", "ddd eee"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("", 5, []),
        ("He said “Go!” Then he went.", 15, ["He said “Go!”", "Then he went."]),
    ],
)
def test_cut_at_sentences_clauses_or_words(text, longest, pieces):
    assert split_sentences(text, longest) == pieces


@given(st.text(alphabet="ab .,!\n", max_size=80), st.integers(1, 20))
def test_no_letter_is_lost_and_no_piece_is_too_long(text, longest):
    pieces = split_sentences(text, longest)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= longest for piece in pieces)
