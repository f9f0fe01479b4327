"""Recordings in every form in which they are passed around, as one waveform."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.clips import is_one, mono, recording_of, undecoded

RATE = 16_000
WAVE = (np.sin(np.linspace(0, 300, 8000)) / 2).astype(np.float32)  # half a second


class Decoded:
    """As torchcodec's AudioDecoder, in stereo."""

    def get_all_samples(self):
        return SimpleNamespace(data=torch.tensor(np.stack([WAVE, WAVE])), sample_rate=RATE)


def wav(rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, WAVE, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


GIVEN = {
    "bytes": wav(),
    "array": (WAVE, RATE),
    "list": (WAVE.tolist(), RATE),
    "tensor": (torch.tensor(WAVE, requires_grad=True), RATE),
    "channels last": (np.stack([WAVE, WAVE], 1), RATE),
    "channels first": (torch.tensor(WAVE)[None], RATE),
    "datasets": {"array": WAVE, "sampling_rate": RATE, "path": "a.wav"},
    "pipelines": {"raw": WAVE.tolist(), "sampling_rate": RATE},
    "encoded": {"path": None, "bytes": wav()},
    "decoded": Decoded(),
    "row": {"id": "a", "audio": {"path": None, "bytes": wav()}, "text": "one"},
    "row of arrays": {"audio": {"array": torch.tensor(WAVE), "sampling_rate": RATE}, "text": "one"},
    "row of decoded audio": {"audio": Decoded()},
}


@pytest.mark.parametrize("form", GIVEN)
def test_every_form_is_one_recording_of_the_same_samples(form):
    assert is_one(GIVEN[form])
    recording = recording_of(GIVEN[form], RATE)
    assert recording.seconds == 0.5
    assert np.abs(recording.waveform(RATE) - WAVE).max() < 1e-6
    assert recording.name == ("a.wav" if form == "datasets" else "")


def test_paths(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav())
    for given in (path, str(path), {"audio": str(path)}, {"path": str(path), "bytes": None}):
        assert is_one(given)
        recording = recording_of(given, RATE)
        assert (recording.seconds, recording.name) == (0.5, str(path))
    segment = recording_of({"audio": {"path": str(path), "bytes": None}, "start": 0.1, "seconds": 0.25}, RATE)
    assert np.array_equal(segment.waveform(RATE), WAVE[1600:5600])


def test_another_rate_is_changed():
    recording = recording_of({"array": WAVE, "sampling_rate": 8000}, RATE)
    assert (recording.seconds, len(recording.waveform(RATE))) == (1.0, 16_000)


@pytest.mark.parametrize(
    "many",
    [[WAVE], ((WAVE, RATE), (WAVE, RATE)), iter([]), [], (), {"a.wav"}],
    ids="list pairs iterator none empty set".split(),
)
def test_many_recordings(many):
    assert not is_one(many)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (WAVE, "ndarray as audio: its sampling rate is unknown.\n-> give a path, bytes, (array, rate), {"),
        (torch.tensor(WAVE), "Tensor as audio: its sampling rate is unknown"),
        (WAVE.tolist(), "list as audio: its sampling rate is unknown"),
        (0.5, "float as audio: it is not audio"),
        (None, "NoneType as audio: it is not audio"),
        ((WAVE, RATE, "text"), "tuple as audio"),
        ({"array": WAVE}, "a mapping with the keys array: its sampling_rate is missing"),
        ({"sampling_rate": RATE, "text": "one"}, "a mapping with the keys sampling_rate, text: it holds no audio"),
        ({}, "a mapping with the keys (none): it holds no audio"),
        ({"audio": None}, "NoneType as audio"),
    ],
    ids=str,
)
def test_what_is_no_recording_is_named(given, message):
    with pytest.raises(UserError) as error:
        recording_of(given, RATE)
    assert message in str(error.value)
    assert "or a row of a dataset" in str(error.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((np.zeros(0), RATE), "empty"),
        ((WAVE, 0), "empty"),
        ((["a", "b"], RATE), "unreadable"),
        (([[0.1, 0.2], [0.3]], RATE), "unreadable"),
        ((np.array([0.1, np.nan]), RATE), "not finite"),
        (b"text", "not audio"),
        ("/nowhere/a.wav", "missing file"),
    ],
    ids=str,
)
def test_an_unreadable_recording_holds_its_error(given, reason):
    recording = recording_of(given, RATE)
    assert recording.seconds == 0
    with pytest.raises(AudioError) as error:
        recording.waveform(RATE)
    assert error.value.reason == reason


def test_a_dataset_is_read_without_its_decoder(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav())
    dataset = Dataset.from_dict({"audio": [str(tmp_path / "a.wav")]}).cast_column("audio", Audio(sampling_rate=8000))
    assert not is_one(dataset)
    (row,) = undecoded(dataset)
    assert np.array_equal(recording_of(row, RATE).waveform(RATE), WAVE)
    assert undecoded(["a.wav"]) == ["a.wav"]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float32, np.float64])
def test_arrays_of_any_kind_are_the_same_audio(kind):
    wave = np.sin(np.linspace(0, 20, 400)) / 2
    if np.issubdtype(kind, np.integer):
        steps = np.iinfo(kind)
        given = np.round(wave * (steps.max - steps.min) / 2 + (float(steps.max) + steps.min + 1) / 2).astype(kind)
    else:
        given = wave.astype(kind)
    assert np.abs(mono((given, 16000), 16000) - wave).max() < 0.01
