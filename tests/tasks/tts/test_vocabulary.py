from __future__ import annotations

import pytest
import torch
from transformers import AddedToken, SpeechT5ForTextToSpeech, SpeechT5Tokenizer

from sft_speech.tasks.speech.checkpoint import load_speech_checkpoint
from sft_speech.tasks.tts.text import SpeakableText
from sft_speech.tasks.tts.vocabulary import MIN_COUNT, add_characters

GERMAN = ["Die schöne Übung für Größe", "über Äcker", "ÜBERALL ÖL"] * MIN_COUNT


@pytest.fixture
def checkpoint(tiny_speaker):
    """A checkpoint with two tokens after its pieces, like those of microsoft."""
    found = load_speech_checkpoint(tiny_speaker, language="de")
    found.tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)})
    found.tokenizer.add_tokens(["<ctc_blank>"])
    found.model.resize_token_embeddings(len(found.tokenizer))
    found.model.config.vocab_size = len(found.tokenizer)
    return found


def test_letters_become_pieces_and_nothing_else_changes(checkpoint):
    before, table = checkpoint.tokenizer, checkpoint.model.get_input_embeddings().weight.detach().clone()
    assert add_characters(checkpoint, GERMAN) == "ÄÜßöü"
    after, wider = checkpoint.tokenizer, checkpoint.model.get_input_embeddings().weight
    assert after.tokenize("schön über") == ["▁", "s", "c", "h", "ö", "n", "▁", "ü", "b", "e", "r"]
    for token, id in before.get_vocab().items():
        assert torch.equal(wider[after.get_vocab()[token]], table[id]), token
    assert after.get_vocab()["<ctc_blank>"] == len(after) - 1 == len(wider) - 1
    assert after.mask_token_id == len(after) - 2
    assert before.get_vocab()["<mask>"] == after.get_vocab()["<mask>"] - 5
    assert torch.equal(wider[after.get_vocab()["ö"]], table[before.get_vocab()["o"]])
    assert after("plain text")["input_ids"] == before("plain text")["input_ids"]


def test_normalized_texts_keep_added_letters(checkpoint):
    def normalize(text):
        return SpeakableText(checkpoint.tokenizer.get_vocab(), checkpoint.language)(text)

    assert normalize("schöne Größe").text == "schone Grosse"
    add_characters(checkpoint, GERMAN)
    normalized = normalize("schöne Größe, 5 Äcker")
    assert normalized.text == "schöne Größe, fünf Äcker"
    assert not normalized.missing
    assert checkpoint.tokenizer.unk_token_id not in checkpoint.encode(normalized.text)


def test_rare_letters_are_not_added(checkpoint, caplog):
    assert add_characters(checkpoint, ["señor"] * (MIN_COUNT - 1)) == ""
    assert "ñ (4)" in caplog.text


def test_plain_transformers_loads_it(checkpoint, tmp_path):
    add_characters(checkpoint, GERMAN)
    checkpoint.save(tmp_path)
    tokenizer, model = SpeechT5Tokenizer.from_pretrained(tmp_path), SpeechT5ForTextToSpeech.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == checkpoint.tokenizer.get_vocab()
    assert tokenizer("schöne Übung")["input_ids"] == checkpoint.encode("schöne Übung")
    assert torch.equal(model.get_input_embeddings().weight, checkpoint.model.get_input_embeddings().weight)
    assert load_speech_checkpoint(tmp_path).language == "de"
