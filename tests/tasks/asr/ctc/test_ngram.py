from __future__ import annotations

import base64
import gzip
from collections import Counter
from pathlib import Path

import pytest

from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc import ngram
from sft_speech.tasks.asr.ctc.ngram import lexicon_of, units, words_of
from sft_speech.tasks.asr.ctc.vocabulary import Characters, tokenizer_of

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-2.0\t<unk>
-0.5\tone\t-0.2
-0.7\ttwo\t-0.2

\\2-grams:
-0.2\t<s> one
-0.3\tone two
-0.4\ttwo </s>

\\end\\
"""
# Made of ARPA by KenLM's `build_binary`.
BINARY = (Path(__file__).parents[3] / "two_words.kenlm.base64").read_text()


def vocabulary(characters: str = "enotw'", delimiter: str = "|") -> Characters:
    """Labels 0 blank, 1 unknown, 2 delimiter, 3 ... the characters."""
    return Characters(tokenizer_of(["<pad>", "<unk>", delimiter, *characters]))


@pytest.mark.parametrize(
    "content",
    [ARPA.encode(), ("\n" + ARPA).encode(), gzip.compress(ARPA.encode(), mtime=0), base64.b64decode(BINARY)],
    ids=["arpa", "blank line first", "gzip", "binary"],
)
def test_words_of_every_kind_of_file(tmp_path, content):
    (tmp_path / "lm").write_bytes(content)
    assert Counter(words_of(str(tmp_path / "lm"))) == Counter(["one", "two"])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"audio,text\na.wav,one\n", "neither an ARPA file nor a KenLM binary: it begins with 'audio,text'"),
        (b"", "neither an ARPA file nor a KenLM binary"),
        (b"\\data\\\nngram 1=0\n", "it has no words"),
        (b"\xff\xfe\x00", "neither an ARPA file nor a KenLM binary"),
        (b"\\data\\\n\\1-grams:\n-1\n", "not an ARPA file"),
        (b"\\data\\\n\\1-grams:\n-1 \xff\n", "not an ARPA file"),
        (gzip.compress(ARPA.encode(), mtime=0)[:60], "not an ARPA file"),
        (base64.b64decode(BINARY)[:60], "it has no words"),
        (base64.b64decode(BINARY).replace(b"two\0", b"t o\0"), "some of its words are empty or hold spaces"),
        (base64.b64decode(BINARY).replace(b"one\0", b"on\0\0"), "some of its words are empty or hold spaces"),
    ],
)
def test_other_files_are_refused(tmp_path, content, why):
    (tmp_path / "lm").write_bytes(content)
    with pytest.raises(UserError) as error:
        words_of(str(tmp_path / "lm"))
    assert why in str(error.value)


def test_words_are_spelled_in_the_case_of_the_vocabulary_and_end_with_a_delimiter():
    words = ["ONE", "TOO", "WE'N", "..."]
    expected = {"ONE": [[5, 4, 3, 2]], "TOO": [[6, 5, 5, 2]], "WE'N": [[7, 3, 8, 4, 2]]}
    assert lexicon_of("lm", words, vocabulary(), None) == expected


def test_a_vocabulary_without_a_delimiter_spells_without_one():
    words = Characters(tokenizer_of(["<pad>", "<unk>", "|", *"一二三"]))
    del words.ids[" "]
    assert lexicon_of("lm", ["一二", "三"], words, None) == {"一二": [[3, 4]], "三": [[5]]}


def test_a_few_words_that_cannot_be_spelled_are_left_out_and_reported(caplog):
    words = ["one", "two", "tone", "ten", "net", "new", "wet", "won", "not", "to", "xylophone"]
    with caplog.at_level("INFO"):
        lexicon = lexicon_of("lm.arpa", words, vocabulary(), None)
    assert list(lexicon) == words[:-1]
    assert "lm.arpa: 1 of 11 words (such as xylophone) cannot be spelled" in caplog.text
    assert "'x' 1 times, 'y' 1 times" in caplog.text


def test_another_alphabet_is_refused_with_its_characters():
    with pytest.raises(UserError, match=r"2 of 3 words \(such as да, нет\) cannot be.*'д' 1 times, 'а' 1 times"):
        lexicon_of("lm.arpa", ["да", "нет", "one"], vocabulary(), None)


def test_one_case_for_a_vocabulary_of_both_is_refused():
    both = vocabulary("EeNnOoTtWw")
    with pytest.raises(UserError, match="its words are in lower case, the model writes both"):
        lexicon_of("lm.arpa", ["one", "two"], both, None)
    assert lexicon_of("lm.arpa", ["One", "TWO", "two"], both, None)["One"] == [[7, 6, 4, 2]]


def test_a_lexicon_chooses_words_and_spellings(tmp_path, caplog):
    (tmp_path / "words").write_text("two\none\tO N E |\none w o n\n\n<unk> e\n")
    lexicon = lexicon_of("lm.arpa", ["ONE", "TWO", "TEN"], vocabulary(), str(tmp_path / "words"))
    assert lexicon == {"TWO": [[6, 7, 5, 2]], "ONE": [[5, 4, 3, 2], [7, 5, 4, 2]]}


def test_a_lexicon_of_other_words_or_tokens_is_refused(tmp_path):
    (tmp_path / "words").write_text("eins\nzwei\none\n")
    with pytest.raises(UserError, match=r"2 of 3 words \(such as eins, zwei\) aren't words of lm.arpa"):
        lexicon_of("lm.arpa", ["one"], vocabulary(), str(tmp_path / "words"))
    (tmp_path / "words").write_text("one w ah n\n")
    with pytest.raises(UserError, match="missing are 'ah' 1 times"):
        lexicon_of("lm.arpa", ["one"], vocabulary(), str(tmp_path / "words"))


@pytest.mark.parametrize("space", ngram.SPACES)
def test_units_of_a_language_model_of_characters(space):
    found = units("lm", [*"ENOTW'", space], vocabulary())
    assert found == {3: "E", 4: "N", 5: "O", 6: "T", 7: "W", 8: "'", 2: space}


def test_a_language_model_of_words_has_no_units():
    assert units("lm", ["a", "one"], vocabulary()) is None


@pytest.mark.parametrize(
    ("characters", "why"),
    [
        ("enotw'", "lacks 1 of the model's 7 characters: ' '"),
        ("enoEtw'|", "'e' and 'E' are one character for the model"),
        ("о|нет", "lacks 6 of the model's 7 characters"),
    ],
)
def test_units_that_do_not_fit_are_refused(characters, why):
    with pytest.raises(UserError) as error:
        units("lm.arpa", characters, vocabulary())
    assert why in str(error.value)


def test_a_rare_character_may_be_lacking(caplog):
    assert units("lm.arpa", "enotw|5", vocabulary()) is not None
    assert """lm.arpa lacks "'"; the model lacks its 5""" in caplog.text


@pytest.mark.parametrize(
    ("section", "why"),
    [
        (b"-1\ta\n" * 5_000_000, "more than 100 times the size of its archive"),
        (b"a" * 50_000_000, "a line of more than 65536 bytes"),
    ],
)
def test_a_zipped_bomb_is_not_read_to_its_end(tmp_path, section, why):
    path = tmp_path / "bomb.arpa.gz"
    path.write_bytes(gzip.compress(b"\\data\\\n\\1-grams:\n" + section, 9))
    with pytest.raises(UserError, match=why):
        words_of(str(path))
