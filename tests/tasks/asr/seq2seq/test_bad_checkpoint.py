"""Checkpoints whose tokenizer or settings for generation do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft_speech.errors import UserError
from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "processor_config.json")


def change(file: Path, **values: object) -> dict:
    """Change a JSON file; None removes a key. Return what it was."""
    before = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (before | values).items() if value is not None}))
    return before


def take_tokenizer(folder: Path, other: Path) -> None:
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
        if (other / name).exists():
            (folder / name).write_bytes((other / name).read_bytes())


def test_a_tokenizer_of_another_family(copied_seq2seq, tiny_directory):
    folder = copied_seq2seq("whisper")
    take_tokenizer(folder, tiny_directory("wav2vec2-layer"))
    with pytest.raises(UserError, match=r"no <\|startoftranscript\|>: it belongs to another model.\n-> copy the token"):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_whisper(copied_seq2seq, tiny_seq2seq):
    """One with as many tokens, in another order."""
    folder = copied_seq2seq("whisper")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text())
    change(file, no_timestamps_token_id=settings["no_timestamps_token_id"] - 1)
    with pytest.raises(UserError, match=r"<\|notimestamps\|> is token 270 in its tokenizer and 269 in its generation"):
        load_checkpoint(folder)
    change(file, **settings | {"lang_to_id": settings["lang_to_id"] | {"<|de|>": 261}})
    with pytest.raises(UserError, match=r"<\|de\|> is token 263 in its tokenizer and 261 in its generation_config"):
        load_checkpoint(folder)
    change(folder / "config.json", decoder_start_token_id=259)
    with pytest.raises(UserError, match=r"<\|startoftranscript\|> is token 260 .* the decoder begins with 259"):
        load_checkpoint(folder)


def test_a_tokenizer_with_more_tokens_or_another_end(copied_seq2seq):
    folder = copied_seq2seq("moonshine")
    before = change(folder / "config.json", vocab_size=100)
    with pytest.raises(UserError, match=r"its tokenizer has \d+ tokens, the model 100"):
        load_checkpoint(folder)
    change(folder / "config.json", **before | {"eos_token_id": 7})
    with pytest.raises(UserError, match="its tokenizer ends texts with token 2, the model with 7"):
        load_checkpoint(folder)


def test_no_tokenizer(copied_seq2seq):
    folder = copied_seq2seq("whisper")
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="it has no tokenizer"):
        load_checkpoint(folder)


def test_settings_that_forbid_languages(copied_seq2seq, tmp_path, caplog):
    folder = copied_seq2seq("whisper")
    change(folder / "generation_config.json", suppress_tokens=[5, 263, 7])
    checkpoint = load_checkpoint(folder, language="de")
    assert "its suppress_tokens forbid <|de|>: allowed again" in caplog.text
    checkpoint.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["suppress_tokens"] == [5, 7]


@pytest.mark.parametrize("language", [None, "de"])
def test_old_settings_that_force_a_language(copied_seq2seq, tmp_path, language):
    """A checkpoint fine-tuned for Spanish, from before there was a setting for languages."""
    folder = copied_seq2seq("whisper")
    forced = [[1, 264], [2, 266], [3, 270]]
    change(folder / "generation_config.json", forced_decoder_ids=forced, language=None, task=None)
    checkpoint = load_checkpoint(folder, language=language)
    assert checkpoint.transcripts.language == (language or "es")
    checkpoint.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved.get("forced_decoder_ids") is None
    assert (saved["language"], saved["task"]) == (language or "es", "transcribe")


def test_an_old_checkpoint_without_settings(copied_seq2seq, tmp_path):
    """The old configuration of every Whisper forces English, even where the language is to be detected."""
    from transformers import AutoModelForSpeechSeq2Seq

    folder = copied_seq2seq("whisper")
    before = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", forced_decoder_ids=[[1, 261], [2, 266], [3, 270]])
    checkpoint = load_checkpoint(folder, any_language=True)
    assert checkpoint.transcripts.language is None
    checkpoint.save(tmp_path / "saved")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "saved")
    assert getattr(model.config, "forced_decoder_ids", None) is None
    names = "lang_to_id task_to_id no_timestamps_token_id is_multilingual max_length decoder_start_token_id".split()
    assert {name: getattr(model.generation_config, name) for name in names} == {name: before[name] for name in names}
    assert load_checkpoint(tmp_path / "saved", language="Spanish").transcripts.prefix()[1] == 264
