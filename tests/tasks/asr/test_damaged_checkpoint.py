"""Directories without a model, with another one, or with damaged files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig

from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint


def test_no_such_directory(tmp_path):
    with pytest.raises(UserError, match="there is no such directory"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="it is a file"):
        load_checkpoint(tmp_path / "file")


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nothing_known"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(tmp_path)


def test_not_ctc(tmp_path):
    WhisperConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a whisper model has no CTC head"):
        load_checkpoint(tmp_path)


def test_no_weights(copied):
    folder = copied("wav2vec2-group")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, from_scratch=True).new_weights


def test_pickled_weights_need_an_option(copied):
    folder = copied("wav2vec2-group")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled \(pytorch_model.bin\).*\n.*--allow_pickle"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, allow_pickle=True).new_weights == []


def test_cut_weights(copied):
    folder = copied("wav2vec2-group")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(folder)


def test_weights_of_another_model(copied):
    folder = copied("wav2vec2-group")
    save_file({"something.weight": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="aren't those of a wav2vec2"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["vocab.json", "preprocessor_config.json"])
def test_damaged_files_are_named(copied, name):
    folder = copied("wav2vec2-group")
    (folder / name).write_text("{")
    with pytest.raises(UserError, match=name.split(".")[0]):
        load_checkpoint(folder, transcripts=["Hello there"])


def test_without_a_feature_extractor_the_family_has_one(copied):
    folder = copied("wav2vec2-group")
    (folder / "preprocessor_config.json").unlink()
    assert load_checkpoint(folder).feature_extractor.sampling_rate == 16000
