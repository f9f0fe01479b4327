from __future__ import annotations

import numpy as np
import pytest
import torch

from sft_speech.errors import UserError
from sft_speech.tasks.speech.speakers import (
    MEAN,
    MelStatistics,
    Speakers,
    XVectors,
    checked,
    embed_reference,
    read_embedding,
)

RATE = 16_000


def voice(formant: float, seed: int, seconds: float = 2.0) -> np.ndarray:
    """Noise around one frequency, like a voice of one formant."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.normal(size=samples))
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    shaped = np.fft.irfft(spectrum * np.exp(-0.5 * ((hertz - formant) / 400) ** 2), samples)
    return (0.1 * shaped / shaped.std() * (1 + np.sin(np.arange(samples) / 3000))).astype(np.float32)


@pytest.fixture(scope="module")
def statistics():
    from transformers import SpeechT5FeatureExtractor

    extractor = SpeechT5FeatureExtractor()

    def mels(waveform):
        return extractor(audio_target=waveform, sampling_rate=RATE)["input_values"][0]

    return MelStatistics(mels)


def test_statistics_distinguish_voices(statistics):
    first, again, louder = statistics(voice(700, 1)), statistics(voice(700, 2)), statistics(3 * voice(700, 2))
    other = statistics(voice(2500, 3))
    assert first.shape == (512,)
    assert first.norm().item() == pytest.approx(1)
    assert first @ again > 0.95
    assert again @ louder > 0.999
    assert first @ other < 0.6


@pytest.mark.parametrize(
    ("embedding", "why"),
    [
        (np.ones((1, 192)), r"\(1, 192\), the model takes \(512,\)"),
        (np.full(512, np.nan), "aren't finite"),
        (np.zeros(512), "all zeros"),
        (np.ones((2, 512)), r"\(2, 512\)"),
    ],
)
def test_something_else_than_an_embedding_is_refused(embedding, why, tmp_path):
    np.save(tmp_path / "e.npy", embedding)
    with pytest.raises(UserError, match=why):
        read_embedding(tmp_path / "e.npy")


def test_an_embedding_in_a_file_or_a_row_is_normalized(tmp_path):
    from safetensors.torch import save_file

    expected = torch.nn.functional.normalize(torch.arange(512.0), dim=0)
    np.save(tmp_path / "e.npy", np.arange(512.0)[None])
    save_file({"x": torch.arange(512.0)}, tmp_path / "e.safetensors")
    assert torch.allclose(read_embedding(tmp_path / "e.npy"), expected)
    assert torch.allclose(read_embedding(tmp_path / "e.safetensors"), expected)
    assert torch.allclose(checked(torch.arange(512.0), 512, "x"), expected)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY"])
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "e.npy").write_bytes(content)
    with pytest.raises(UserError, match="cannot be loaded"):
        read_embedding(tmp_path / "e.npy")


def test_speakers_are_saved_and_loaded_by_name(tmp_path):
    voices = Speakers({"anna": torch.tensor([3.0, 4]), "bob": torch.tensor([0.0, 1])}, 2, "statistics")
    voices.save(tmp_path)
    loaded = Speakers.load(tmp_path, 2)
    assert loaded["anna"].tolist() == pytest.approx([0.6, 0.8])
    assert sorted(loaded) == ["anna", "bob"]
    assert loaded.encoder == "statistics"
    assert "carl" not in loaded
    with pytest.raises(UserError, match=r"(?s)no such voice.*anna, bob"):
        loaded["carl"]
    assert len(Speakers.load(tmp_path / "none", 2)) == 0


def test_a_damaged_file_of_speakers_is_refused(tmp_path):
    (tmp_path / "speakers.safetensors").write_bytes(b"\x01")
    with pytest.raises(UserError, match="cannot be loaded"):
        Speakers.load(tmp_path)


def test_the_average_of_a_speaker_has_length_one():
    rows = [("a", torch.tensor([1.0, 0])), ("a", torch.tensor([0.0, 1])), ("", torch.tensor([0.0, 1]))]
    voices = Speakers.average(iter(rows), 2)
    assert voices["a"].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert sorted(voices) == ["a", MEAN]
    assert voices[MEAN].norm().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("waveform", "why"), [(np.zeros(RATE), "silent"), (voice(700, 1, 0.1), "too short"), (np.zeros(0), "too short")]
)
def test_a_short_or_silent_reference_is_refused(statistics, waveform, why):
    with pytest.raises(UserError, match=why):
        embed_reference(statistics, waveform, RATE, "ref.wav")


def test_x_vectors_of_transformers(tiny_x_vectors):
    encoder = XVectors(tiny_x_vectors())
    embedding = encoder(voice(700, 1))
    assert embedding.shape == (32,)
    assert embedding.norm().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(encoder(voice(700, 1)), embedding)


def test_a_model_without_an_x_vector_head_is_refused(tiny_x_vectors):
    with pytest.raises(UserError, match="no x-vector head"):
        XVectors(tiny_x_vectors(head=False))


def test_a_model_that_cannot_be_reached_is_not_recommended():
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set") as caught:
        XVectors("nobody/x-vectors")
    assert "such as" not in str(caught.value)
