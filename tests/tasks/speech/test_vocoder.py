from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import SpeechT5FeatureExtractor, SpeechT5HifiGan, SpeechT5HifiGanConfig

from sft_speech.errors import UserError
from sft_speech.tasks.speech.vocoder import GriffinLim, load_vocoder

RATE = 16_000


@pytest.fixture(scope="module")
def extractor():
    return SpeechT5FeatureExtractor()


def mels_of(extractor, waveform):
    return extractor(audio_target=waveform, sampling_rate=RATE)["input_values"][0]


def test_griffin_lim_keeps_the_spectrum(extractor):
    seconds = np.arange(RATE) / RATE
    sound = sum(np.sin(2 * np.pi * f * seconds) / n for n, f in enumerate((220, 660, 1500, 3000), 1))
    sound = (0.1 * sound * (1 + np.sin(10 * seconds))).astype(np.float32)
    mels = mels_of(extractor, sound)
    waveform = GriffinLim(extractor)(torch.as_tensor(mels))
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - len(sound)) < 2 * 256
    again = mels_of(extractor, waveform)[: len(mels)]
    loud = mels[: len(again)] > -1.5  # above a tenth of the strongest band
    assert np.abs(again - mels[: len(again)])[loud].mean() < 0.1  # in log10: 2 dB
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=0.1)


def tiny_hifigan(folder, **config):
    small = {"upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]}
    SpeechT5HifiGan(SpeechT5HifiGanConfig(**small | config)).save_pretrained(folder)
    return str(folder)


def test_a_hifigan_by_its_directory(extractor, tmp_path):
    vocoder = load_vocoder(tiny_hifigan(tmp_path), extractor)
    waveform = vocoder(torch.zeros(7, 80))
    assert waveform.shape == (7 * 256,)
    assert waveform.dtype == np.float32


def test_a_vocoder_for_other_spectrograms_is_refused(extractor, tmp_path):
    with pytest.raises(UserError, match="it takes 40 bands at 16000 Hz, 256 samples a frame; the model gives 80"):
        load_vocoder(tiny_hifigan(tmp_path, model_in_dim=40), extractor)


def test_griffin_lim_is_the_default_and_logged(extractor, caplog):
    with caplog.at_level("INFO", logger="sft_speech"):
        assert isinstance(load_vocoder(None, extractor), GriffinLim)
    assert "Griffin-Lim" in caplog.text
    with pytest.raises(UserError, match=r"no config\.json"):
        load_vocoder(".", extractor)
