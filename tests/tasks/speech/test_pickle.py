"""Pickled vocoders and speaker encoders are read only if the user names and allows them."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sft_speech import Synthesizer
from sft_speech.errors import UserError
from sft_speech.tasks.speech.speakers import MEAN, Speakers, XVectors


class Evil:
    def __init__(self, mark) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def with_pickle(folder, target):
    """Copy a saved model, and pickle its weights."""
    shutil.copytree(folder, target)
    torch.save(load_file(target / "model.safetensors"), target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    return target


@pytest.fixture
def vocoder(tmp_path):
    SpeechT5HifiGan(SpeechT5HifiGanConfig(model_in_dim=20, upsample_initial_channel=16)).save_pretrained(tmp_path / "v")
    return with_pickle(tmp_path / "v", tmp_path / "vocoder")


def test_a_pickled_model_and_vocoder(tiny_speaker, vocoder, tmp_path):
    model = with_pickle(tiny_speaker, tmp_path / "model")
    for pickled, other in ((model, None), (tiny_speaker, str(vocoder))):
        with pytest.raises(UserError, match="its weights are pickled"):
            Synthesizer(pickled, other)
        assert Synthesizer(pickled, other, allow_pickle=True)("Hello.", "anna").seconds > 0


def test_an_allowed_vocoder_runs_no_code(tiny_speaker, vocoder, tmp_path):
    torch.save({"a": Evil(tmp_path / "mark")}, vocoder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        Synthesizer(tiny_speaker, str(vocoder), allow_pickle=True)
    assert not (tmp_path / "mark").exists()


def test_allow_pickle_is_not_for_an_encoder_that_only_the_model_names(tiny_speaker, tmp_path, monkeypatch):
    allowed = []
    monkeypatch.setattr(
        XVectors, "__init__", lambda self, name, device="cpu", allow_pickle=False: allowed.append(allow_pickle)
    )
    synthesizer = Synthesizer(tiny_speaker, allow_pickle=True)
    synthesizer.checkpoint.speakers = Speakers({MEAN: torch.ones(16)}, 16, str(tmp_path / "named/by/the/file"))
    synthesizer.encoder()
    Synthesizer(tiny_speaker, speaker_encoder="named", allow_pickle=True).encoder()
    assert allowed == [False, True]
