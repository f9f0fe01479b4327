from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Wav2Vec2CTCTokenizer

from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.vocabulary import Characters, Subwords, build_tokenizer, tokenizer_of

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
LOWER = Characters(tokenizer_of(["<pad>", "<unk>", "|", *LETTERS]))


@pytest.fixture
def plain(tmp_path):
    """`plain({"<pad>": 0, ...}, **options)`: a tokenizer as transformers makes it."""

    def build(entries, **options):
        path = tmp_path / "vocab.json"
        path.write_text(json.dumps({token: index for index, token in enumerate(entries)}))
        return Wav2Vec2CTCTokenizer(str(path), **options)

    return build


def test_built_from_transcripts():
    tokenizer = build_tokenizer(["Hello, World!", "it’s 5", "", "Ähre"], "en")
    expected = ["<pad>", "<unk>", "|", *"'defhilorstvwä"]
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(expected)}
    assert len(tokenizer) == len(expected)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, None)


def test_built_the_same_whatever_the_order():
    transcripts = ["the cat", "a dog's", "zoo"]
    assert build_tokenizer(transcripts).get_vocab() == build_tokenizer(reversed(transcripts)).get_vocab()


def test_characters_too_rare_to_be_learned_are_named(caplog):
    with caplog.at_level("WARNING"):
        build_tokenizer(["aaaaa"] * 2)
        assert not caplog.records
        build_tokenizer(["aaaaa éb", "aaaa é"])
    assert caplog.messages == ["too rare in the transcripts to be learned, perhaps typing errors: b (1) é (2)"]


def test_built_and_saved_it_has_no_more_entries(tmp_path):
    tokenizer = build_tokenizer(["abc"])
    tokenizer.save_pretrained(tmp_path)
    loaded = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert len(loaded) == 6


@pytest.mark.parametrize("transcripts", [[], ["", " ... "]])
def test_nothing_to_build_from(transcripts):
    with pytest.raises(UserError, match="no letter"):
        build_tokenizer(transcripts)


@given(st.text(alphabet=LETTERS + " é", max_size=30))
def test_encoded_as_transformers_does(text):
    text = " ".join(text.split())
    assert LOWER.encode(text) == LOWER.tokenizer(text).input_ids


@given(st.text(alphabet=LETTERS + " ", max_size=30))
def test_there_and_back(text):
    text = " ".join(text.split())
    assert LOWER.decode(LOWER.encode(text)) == text


def test_double_letters_stay():
    assert LOWER.decode(LOWER.encode("hello all")) == "hello all"


def test_upper_case_is_inferred(plain):
    vocabulary = Characters(plain(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS.upper()]))
    text, missing, *_ = vocabulary.normalizer("It's “five” ☃")
    assert (text, dict(missing)) == ("IT'S FIVE", {"☃": 1})
    assert vocabulary.encode(text) == [13, 24, 31, 23, 4, 10, 13, 26, 9]


def test_start_and_end_tokens_are_not_characters(plain):
    tokenizer = plain(["[PAD]", "[UNK]", "|", *"abc"], pad_token="[PAD]", unk_token="[UNK]")
    assert len(tokenizer) == 8  # two more than the vocabulary: transformers adds them silently
    assert Characters(tokenizer).normalizer.alphabet == set("abc")
    assert Characters(tokenizer).fits(6)
    assert Characters(tokenizer).fits(8)
    assert not Characters(tokenizer).fits(5)


def test_special_tokens_of_a_fairseq_conversion_are_never_text(plain):
    """Its vocab.json has fairseq's tokens; tokenizer_config.json names none of them, or others."""
    names = {"bos_token": None, "eos_token": None, "unk_token": "[UNK]", "pad_token": "<pad>"}
    vocabulary = Characters(plain(["<s>", "<pad>", "</s>", "<unk>", "|", *LETTERS.upper(), "<noise>"], **names))
    assert vocabulary.blank == 1
    assert vocabulary.decode([0, 12, 3, 9, 2, 4, 6, 0]) == "HE B"
    assert vocabulary.pieces([0, 12, 3, 9, 4, 6, 2]) == ["", "H", "", "E", " ", "B", ""]
    assert not {"<s>", "</s>", "<unk>", "<pad>"} & vocabulary.ids.keys()  # what a beam search may write
    assert "<noise>" in vocabulary.ids  # somebody may have trained this one


def test_special_tokens_of_subwords_are_never_text():
    tokens = ["<unk>", "<s>", "▁the", "▁", "cat", "</s>", "a", "'", "<mask>", "<pad>"]
    model = models.Unigram([(token, -1.0) for token in tokens], unk_id=0)
    vocabulary = subwords(model, pre_tokenizers.Metaspace(), decoders.Metaspace())
    assert vocabulary.decode([1, 2, 3, 8, 4, 5]) == "the cat"
    assert vocabulary.pieces([1, 2, 3, 8, 4, 5]) == ["", "the", " ", "", "cat", ""]


def test_lower_case_outside_upper_case_inside(plain):
    vocabulary = Characters(plain(["<pad>", "<unk>", "|", *"ABC"], do_lower_case=True))
    assert vocabulary.normalizer("A, Cab!").text == "a cab"
    assert vocabulary.decode(vocabulary.encode("a cab")) == "a cab"


def test_a_space_instead_of_the_delimiter(plain, tmp_path):
    vocabulary = Characters(plain(["<pad>", "<unk>", " ", *"abc"]))
    assert vocabulary.encode("a b") == [3, 2, 4]
    assert vocabulary.decode([3, 2, 4]) == "a b"
    vocabulary.tokenizer.save_pretrained(tmp_path / "saved")
    assert Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "saved").decode([3, 2, 4]) == "a b"


def test_no_delimiter_at_all(plain):
    vocabulary = Characters(plain(["<pad>", "<unk>", *"日本"]))
    assert vocabulary.encode("日 本") == [2, 3]


def test_tokens_of_several_characters(plain):
    vocabulary = Characters(plain(["<pad>", "<unk>", "|", *"abcht", "ch", "cht"]))
    assert vocabulary.encode("acht bach t") == [3, 9, 2, 4, 3, 8, 2, 7]
    assert vocabulary.decode([3, 9, 2, 4, 3, 8, 2, 7]) == "acht bach t"
    assert vocabulary.encode("x ch") == [1, 2, 8]


def test_a_missing_character_is_unknown():
    assert LOWER.encode("aé") == [3 + LETTERS.index("a"), 1]


# ---- subwords ----


def subwords(model, split, decoder):
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = split, decoder
    return Subwords(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>"), blank=9)


def of_unigrams():
    tokens = ["<unk>", "</s>", "▁the", "▁", "cat", "s", "a", "'", "<pad>"]
    model = models.Unigram([(token, -1.0 / len(token)) for token in tokens], unk_id=0)
    return subwords(model, pre_tokenizers.Metaspace(), decoders.Metaspace())


def of_bytes():
    tokens = ["<unk>", "Ġthe", "Ġ", "t", "h", "e", "Ã", "¤", "th", "<pad>", "the"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, merges, unk_token="<unk>")
    return subwords(model, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())


def test_subwords_of_unigrams():
    vocabulary = of_unigrams()
    assert vocabulary.normalizer("The cat’s, à ☃").text == "the cat's a"
    assert vocabulary.encode("the cats a") == [2, 3, 4, 5, 3, 6]
    assert vocabulary.encode("the dog")[:2] == [2, 3]
    assert vocabulary.encode("the dog")[-1] == 0
    assert vocabulary.decode([2, 3, 4, 5, 5, 0]) == "the catss"  # the unknown token is not text
    assert vocabulary.pieces([2, 3, 4, 5, 2]) == ["the", " ", "cat", "s", " the"]
    assert (vocabulary.fits(10), vocabulary.fits(9)) == (True, False)


def test_subwords_of_bytes():
    vocabulary = of_bytes()
    assert vocabulary.encode("the the thä") == [10, 1, 2, 8, 6, 7]
    assert vocabulary.decode([10, 1, 2, 8, 6, 7]) == "the the thä"
    assert vocabulary.pieces([10, 1, 2, 8, 6, 7]) == ["the", " the", " ", "th", "", "ä"]


def test_a_vocabulary_of_subwords_is_pickled():
    assert pickle.loads(pickle.dumps(of_unigrams())).encode("the cat") == of_unigrams().encode("the cat")
