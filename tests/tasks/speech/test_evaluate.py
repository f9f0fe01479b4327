from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
import soundfile
import torch

from sft_speech.cli import main
from sft_speech.corpora import load_corpus
from sft_speech.errors import UserError
from sft_speech.tasks.speech.evaluate import evaluate_speech, summary
from sft_speech.tasks.tts.synthesizer import Synthesizer

RATE = 16_000


class MissesFirstWord:
    """A judge that recognizes every word but the first."""

    def score(self, reference, waveform, rate):
        assert rate == RATE
        assert len(waveform)
        return {"hypothesis": " ".join(reference.split()[1:]), "missed": 1}

    def summary(self, rows):
        return {"missed": sum(row["missed"] for row in rows)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_metadata):
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    rows = []
    for number, (text, speaker) in enumerate([("hello there", "anna"), ("how do you do", "bob"), ("good", "anna")]):
        seconds = np.arange(int((0.5 + 0.2 * number) * RATE)) / RATE
        hum = sum(np.sin(2 * np.pi * (120 + 60 * number) * n * seconds) / n for n in range(1, 9))
        soundfile.write(folder / f"{number}.wav", 0.1 * hum + rng.normal(0, 1e-3, len(seconds)), RATE)
        rows.append({"file_name": f"{number}.wav", "text": text, "speaker": speaker})
    return write_metadata(folder, rows)


@pytest.fixture
def synthesizer(tiny_speaker):
    made = Synthesizer(str(tiny_speaker), device="cpu")
    with torch.no_grad():  # it rarely stops before its limit
        made.checkpoint.model.speech_decoder_postnet.prob_out.bias.fill_(-1.2)
    return made


def generate(synthesizer):
    return lambda row, voice: (synthesizer([row["text"]], voice)[0], None)


def test_copy_synthesis_is_nearer_than_an_untrained_model(synthesizer, corpus):
    lines = evaluate_speech(synthesizer, load_corpus(str(corpus), None), generate(synthesizer), MissesFirstWord())
    assert sorted(line["id"] for line in lines) == ["0.wav", "1.wav", "2.wav"]
    figures = summary(lines, MissesFirstWord())
    assert figures["copy_mcd"] < figures["speech_mcd"]
    assert figures["copy_duration_ratio"] == pytest.approx(1, abs=0.05)
    assert figures["copy_voicing_error"] < figures["speech_voicing_error"]
    for metric in ("mcd", "duration_ratio", "speaker_similarity", "nearest_other_speaker"):
        low, high = figures[f"speech_{metric}_interval"]
        assert low <= figures[f"speech_{metric}"] <= high
    assert figures["speech_missed"] == figures["recording_missed"] == 3
    assert figures["real_time_factor"] > 0


def test_utterances_that_cannot_be_generated_or_read_have_a_problem(synthesizer, corpus, tmp_path):
    rows = list(load_corpus(str(corpus), None))
    rows[0]["text"] = "你好"
    rows[1]["audio"] = {"path": str(tmp_path / "gone.wav"), "bytes": None}
    lines = evaluate_speech(synthesizer, rows, generate(synthesizer))
    assert "the model lacks" in lines[0]["problem"]
    assert "cannot be read" in lines[1]["problem"]
    assert summary(lines)["utterances"] == 1
    with pytest.raises(UserError, match="none of 2 utterances"):
        summary(lines[:2])


def test_the_command_with_a_judge(tiny_speaker, corpus, tmp_path, capsys):
    judge = str(files("sft_speech").joinpath("assets/wav2vec2-small"))
    command = ["evaluate-tts", str(tiny_speaker), "--source", str(corpus), "--split", "speaker=anna"]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "speaker=anna.json").write_text('{"loss": 1.5}')
    (tmp_path / "evaluation" / "speaker=anna.jsonl").write_text('{"id": "0.wav", "after": 0.5}\n')
    assert main([*command, "--judge", judge, "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    figures = json.loads((tmp_path / "evaluation" / "speaker=anna.json").read_text())
    assert figures["loss"] == 1.5
    assert {"speech_wer", "speech_cer_interval", "copy_wer", "recording_cer", "speech_mcd"} <= figures.keys()
    assert f"{figures['speech_mcd']:.3f}" in shown
    assert f"{100 * figures['speech_wer']:.1f} [" in shown
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / "speaker=anna.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert "hypothesis" in rows[0]["speech"]
    assert {row["id"]: row.get("after") for row in rows}["0.wav"] == 0.5


def test_an_unknown_voice_is_taken_from_its_recordings(tiny_speaker, corpus, tmp_path, write_metadata):
    rows = [{"file_name": str(corpus / f"{number}.wav"), "text": "hi", "speaker": "carl"} for number in range(2)]
    source = write_metadata(tmp_path, rows)
    assert main(["evaluate-tts", str(tiny_speaker), "--source", str(source), "-o", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "evaluation" / f"{source.name}.json").read_text())
    assert 0.9 < figures["copy_speaker_similarity"] <= 1
    assert figures["speech_nearest_other_speaker"] < 0.9


def test_bad_input_gives_one_line(tiny_speaker, corpus, capsys):
    assert main(["evaluate-tts", str(tiny_speaker), "--source", str(corpus), "--judge", "/nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["evaluate-tts", str(tiny_speaker), "--source", str(corpus), "--split", "speaker=carl"]) == 2
    assert "carl" in capsys.readouterr().err
