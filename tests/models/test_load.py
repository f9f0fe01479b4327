from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCTC,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
)

from sft_speech.errors import UserError
from sft_speech.models.load import load_pretrained, read_config


@pytest.mark.parametrize("model_class", [AutoModelForCTC, Wav2Vec2ForCTC])
def test_weights_are_the_checkpoints_in_float32(copied, model_class):
    folder = copied("wav2vec2-group")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    model, new = load_pretrained(model_class, str(folder))
    assert new == []
    assert not model.training
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"].half().float())


def test_a_head_of_another_task_is_new(copied):
    folder = copied("wav2vec2-group")
    config = read_config(str(folder))
    config.num_labels = 3
    model, new = load_pretrained(AutoModelForAudioClassification, str(folder), config=config)
    assert isinstance(model, Wav2Vec2ForSequenceClassification)
    assert new == ["projector.weight", "projector.bias", "classifier.weight", "classifier.bias"]


def test_a_head_of_another_size_is_new_only_on_request(copied):
    folder = copied("wav2vec2-group")
    config = read_config(str(folder))
    config.vocab_size = 7
    model, new = load_pretrained(AutoModelForCTC, str(folder), config=config, new_head=True)
    assert model.lm_head.out_features == 7
    assert new == ["lm_head.weight", "lm_head.bias"]
    with pytest.raises(UserError, match=r"cannot be loaded.*\n-> do this"):
        load_pretrained(AutoModelForCTC, str(folder), config=config, do="do this")


@pytest.mark.parametrize("model_class", [AutoModelForCTC, Wav2Vec2ForCTC])
def test_from_scratch_all_weights_are_random(copied, model_class):
    folder = copied("wav2vec2-group")
    (folder / "model.safetensors").unlink()
    model, new = load_pretrained(model_class, str(folder), config=read_config(str(folder)), from_scratch=True)
    assert new == [name for name, _ in model.named_parameters()]


def test_weights_of_another_model_are_refused(copied):
    folder = copied("wav2vec2-group")
    save_file({"something.weight": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="aren't those of a wav2vec2 model"):
        load_pretrained(AutoModelForCTC, str(folder))


def test_no_such_checkpoint(tmp_path):
    for read in (read_config, lambda name: load_pretrained(Wav2Vec2ForCTC, name)):
        with pytest.raises(UserError, match=r"no config\.json"):
            read(str(tmp_path))


@pytest.mark.parametrize("name", ["./model", "runs/mine/model"])
def test_what_can_only_be_a_directory_is_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no such directory"):
        read_config(name)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_git_lfs_has_not_fetched_is_named(copied, name):
    folder = copied("wav2vec2-group")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    for load in (lambda: read_config(str(folder)), lambda: load_pretrained(AutoModelForCTC, str(folder))):
        with pytest.raises(UserError, match=f"{name} is a Git LFS pointer.*\n-> git -C .* lfs pull"):
            load()
