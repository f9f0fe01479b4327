"""Beam search in the verbs and from Python, and the log-probabilities that it takes."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import soundfile
from tiny_ngram import UNIGRAMS, arpa

from sft_speech.cli import main
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
from sft_speech.tasks.asr.ctc.decoding import Decoding
from sft_speech.tasks.asr.ctc.recognition import runs
from sft_speech.tasks.asr.ctc.recognize import recognize
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.transcriber import Transcriber

pytest.importorskip("torchaudio.models.decoder")
pytest.importorskip("flashlight.lib.text")

RATE = 16_000


@pytest.fixture
def lm(tmp_path):
    return arpa(tmp_path / "words.arpa")


def noise(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, 5))
    return (rng.normal(size=round(seconds * RATE)) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def directory(tiny_directory):
    return tiny_directory("wav2vec2-layer")


@pytest.fixture
def files(tmp_path):
    """Three recordings and their manifest."""
    lines = ["audio,text"]
    for number, seconds in enumerate((0.6, 1.4, 0.9)):
        soundfile.write(tmp_path / f"{number}.wav", noise(seconds, number), RATE, subtype="FLOAT")
        lines.append(f"{tmp_path / f'{number}.wav'},one two")
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    return [str(tmp_path / f"{number}.wav") for number in range(3)]


def test_log_probabilities_are_those_of_the_own_frames(directory):
    import torch

    checkpoint = load_checkpoint(directory)
    clips = [Clip(noise(seconds, 1), seconds) for seconds in (0.5, 1.3)]
    for one, found in zip(clips, recognize(checkpoint, clips, scores=True), strict=True):
        with torch.no_grad():
            logits = checkpoint.model(**checkpoint.features([one.audio])).logits[0]
        assert found.scores.shape == (found.counts.frames, logits.shape[1])
        assert np.allclose(found.scores, logits.log_softmax(-1).numpy(), atol=1e-4)


def test_log_probabilities_of_chunks_are_joined_as_their_best_tokens(directory):
    checkpoint = load_checkpoint(directory)
    (found,) = recognize(checkpoint, [Clip(noise(6.0, 2), 6.0)], chunk_seconds=1.0, scores=True)
    assert len(found.scores) == found.counts.frames
    assert np.array_equal(runs(found.scores.argmax(axis=1), 0)[1], found.starts)


def test_the_verbs_search(directory, files, lm, tmp_path, capsys):
    def run(*arguments) -> str:
        assert main([*arguments, "--device", "cpu"]) == 0
        return capsys.readouterr().out

    searched = ["--lm", lm, "--lm_weight", "0.5", "--word_score", "-1"]
    evaluate = ("evaluate", str(directory), "--source", str(tmp_path / "corpus.csv"), "-o", str(tmp_path))
    run(*evaluate, *searched)
    figures = json.loads((tmp_path / "evaluation/corpus.json").read_text())
    expected = {"search": "beam", "lm": lm, "lexicon": None, "lm_weight": 0.5, "word_score": -1.0, "beam_size": 100}
    assert figures["decoding"] == expected
    rows = [json.loads(line) for line in (tmp_path / "evaluation/corpus.jsonl").read_text().splitlines()]
    words = {word for row in rows for word in row["hypothesis"].split()}
    assert words
    assert words <= {"ONE", "TWO", "TEN"}
    run(*evaluate)
    assert json.loads((tmp_path / "evaluation/corpus.json").read_text())["decoding"] == {"search": "greedy"}

    (tmp_path / "decoding.yaml").write_text(f"lm: {lm}\nlm_weight: 0.5\nword_score: 4\n")
    out = run("transcribe", str(directory), *files, "--decoding", str(tmp_path / "decoding.yaml"), "--word_score", "-1")
    assert [line.split("\t")[1] for line in out.splitlines()] == [row["hypothesis"] for row in rows]
    transcribe = partial(run, "transcribe", str(directory), files[1], *searched)
    (row,) = map(json.loads, transcribe("--format", "jsonl", "--timestamps", "word").splitlines())
    assert " ".join(word["text"] for word in row["words"]) == row["text"] == rows[1]["hypothesis"]
    times = [time for word in row["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 1.4
    assert "-->" in transcribe("--format", "srt")


def test_the_transcriber_searches(directory, files, lm):
    transcriber = Transcriber(directory, device="cpu", decoding=Decoding(lm, lm_weight=0.5))
    found = transcriber(files)
    assert [one.text for one in found] == [transcriber(file).text for file in files]
    assert {word for one in found for word in one.text.split()} <= {"ONE", "TWO", "TEN"}


def test_an_unsuitable_language_model_is_refused_before_anything_is_recognized(
    directory, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Transcriber, "pools", lambda *_, **__: pytest.fail("it transcribes"))
    soundfile.write(tmp_path / "a.wav", noise(1.0, 0), RATE)
    lm = arpa(tmp_path / "lm", {**UNIGRAMS, "да": (-1, 0)}, {})
    assert main(["transcribe", str(directory), str(tmp_path / "a.wav"), "--lm", lm]) == 2
    assert "1 of 4 words (such as да) cannot be spelled" in capsys.readouterr().err
