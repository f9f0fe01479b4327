"""The answers of each kind of model, without gradio."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from sft_speech import Classifier, Synthesizer, Transcriber, UserError, VoiceConverter
from sft_speech.tools.demo.answers import MAX_CHARACTERS, SHOWN_LABELS, load_models


@pytest.fixture
def load(options, tmp_path):
    """`load(model, *flags)`: a model of the page, whose files go into `tmp_path`."""
    return lambda model, *flags: load_models([str(model)], options(*flags), tmp_path)[0]


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory):
    """Directory of a tiny classifier with twelve labels."""
    from tiny_recognizers import CONVOLUTIONS, SIZES
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    names = {number: f"label {number}" for number in range(12)}
    config = Wav2Vec2Config(**SIZES, **CONVOLUTIONS, id2label=names, label2id={name: n for n, name in names.items()})
    folder = tmp_path_factory.mktemp("classifier")
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_a_recognizer_gives_text_words_with_times_and_subtitles(load, tiny_directory, recordings, tmp_path) -> None:
    model, recording = tiny_directory("wav2vec2-layer"), str(recordings / "hum.wav")
    expected = Transcriber(model, device="cpu")(recording)
    answer = load(model).answer(recording)
    text, words, files = answer.values
    assert not answer.failed
    assert "1.0 s of audio" in answer.note
    assert f"confidence {expected.confidence:.0%}" in answer.note
    assert text == expected.text != ""
    assert [row[0] for row in words] == text.split()
    first = expected.words[0]
    assert words[0][1:] == [f"{first.start:.2f}", f"{first.end:.2f}", f"{expected.word_confidences[0]:.0%}"]
    assert [Path(file).name for file in files] == ["hum.srt", "hum.vtt"]
    assert all(tmp_path in Path(file).parents for file in files)
    assert "-->" in Path(files[0]).read_text()
    assert Path(files[1]).read_text().startswith("WEBVTT")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (None, "no recording: there is nothing"),
        ("empty.wav", "empty.wav: "),
        ("notes.wav", "notes.wav: "),
        ("silent.wav", "silent.wav: it is silent. Check the microphone"),
        ("hum.wav", "hum.wav: it is 1 s long, and this page takes at most 0.5 s"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused_with_their_name(
    load, tiny_directory, recordings, name: str | None, why: str
) -> None:
    model = load(tiny_directory("wav2vec2-layer"), "--max_seconds", "0.5" if name == "hum.wav" else "600")
    answer = model.answer(str(recordings / name) if name else None)
    assert answer.failed
    assert answer.values == ()
    assert answer.note.startswith(why)
    assert str(recordings) not in answer.note


def test_a_classifier_gives_its_most_probable_labels(load, tiny_classifier, recordings) -> None:
    recording = str(recordings / "hum.wav")
    expected = Classifier(tiny_classifier, device="cpu")(recording)
    answer = load(tiny_classifier).answer(recording)
    assert list(answer.values[0].items()) == expected[:SHOWN_LABELS]
    assert f"{12 - SHOWN_LABELS} labels are less probable" in answer.note


def test_a_synthesizer_speaks_in_a_voice_of_the_list_or_of_a_recording(load, tiny_speaker, recordings) -> None:
    model, synthesizer = load(tiny_speaker), Synthesizer(tiny_speaker, device="cpu")
    assert (model.voices, model.voice, model.clones) == (["anna", "bob"], "anna", True)
    hum = str(recordings / "hum.wav")
    for voice, reference, wanted in (("bob", None, "bob"), ("bob", hum, hum)):
        answer = model.answer("Good 2 go", voice, reference)
        assert not answer.failed, answer.note
        assert "read as: " in answer.note
        spoken, rate = soundfile.read(answer.values[0], dtype="float32")
        expected = synthesizer("Good 2 go", wanted)
        assert rate == expected.rate
        assert abs(spoken - expected.waveform).max() < 1e-4
    assert load(tiny_speaker, "--speaker", "bob").voice == "bob"


def test_a_synthesizer_refuses_texts_and_voices_that_it_does_not_offer(load, tiny_speaker, recordings) -> None:
    model = load(tiny_speaker)
    assert model.answer("  ", "bob", None).note == "no text: there is nothing to say. Write a sentence."
    assert model.answer("a" * (MAX_CHARACTERS + 1), "bob", None).note.startswith("the text: 2,001 characters")
    assert model.answer("hello", "bob", str(recordings / "notes.wav")).note.startswith("notes.wav: ")
    # A voice of the command line may be a file; a visitor's must not be one.
    assert "does not offer it" in model.answer("hello", str(recordings / "hum.wav"), None).note
    with pytest.raises(UserError, match="speaker carl"):
        load(tiny_speaker, "--speaker", "carl")


def test_a_voice_converter_converts_an_upload(load, tiny_conversion, recordings) -> None:
    hum = str(recordings / "hum.wav")
    expected = VoiceConverter(tiny_conversion, device="cpu")(hum, "anna")
    answer = load(tiny_conversion).answer(hum, "anna", None)
    spoken, _ = soundfile.read(answer.values[0], dtype="float32")
    assert abs(spoken - expected.waveform).max() < 1e-4
    assert load(tiny_conversion).answer(str(recordings / "empty.wav"), "anna", None).note.startswith("empty.wav: ")


def test_models_of_one_page_have_one_task(options, tiny_directory, tiny_speaker, tmp_path) -> None:
    recognizer = str(tiny_directory("wav2vec2-layer"))
    with pytest.raises(UserError, match=r"speech synthesis, and .* is one for speech recognition"):
        load_models([recognizer, str(tiny_speaker)], options(), tmp_path)
    with pytest.raises(UserError, match="--vocoder: models for speech recognition do not have it"):
        load_models([recognizer], options("--vocoder", "some/vocoder"), tmp_path)
