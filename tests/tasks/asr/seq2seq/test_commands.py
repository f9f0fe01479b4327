"""The commands with a recognizer that writes token by token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.transcriber import Transcriber

RATE = 16_000


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        waveform = rng.normal(size=RATE * (number + 1)) * np.sin(np.arange(RATE * (number + 1)) / 3000) * 0.1
        soundfile.write(folder / f"{number}.wav", waveform, RATE)
    return folder


def transcribe(model: Path, recordings: Path, *options: object) -> int:
    return main(["transcribe", str(model), str(recordings), "--device", "cpu", *map(str, options)])


def test_lines_name_the_language_and_words_have_times(tiny_seq2seq, recordings: Path, tmp_path: Path) -> None:
    options = ("--format", "jsonl", "--timestamps", "word", "-o", tmp_path / "out.jsonl")
    assert transcribe(tiny_seq2seq("whisper"), recordings, *options, "--language", "german") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["language"], row["seconds"]) for row in rows] == [("de", 1.0), ("de", 2.0), ("de", 3.0)]
    for row in rows:
        assert " ".join(word["text"] for word in row["words"]) == row["text"] != ""
        assert all(0 <= word["start"] <= word["end"] <= row["seconds"] for word in row["words"])


def test_a_run_is_not_resumed_with_other_options(tiny_seq2seq, recordings: Path, tmp_path: Path, capsys) -> None:
    model, output = tiny_seq2seq("whisper-en"), tmp_path / "out.txt"
    (recordings / "3.wav").write_bytes(b"no audio")
    interrupted = Transcriber.pools
    with pytest.MonkeyPatch.context() as patch:

        def fail(self, blocks, **more):
            yield from [next(interrupted(self, blocks, **more))]
            raise UserError("the power", "it failed", "wait")

        patch.setattr(Transcriber, "pools", fail)
        assert transcribe(model, recordings, "-o", output) == 2
    assert transcribe(model, recordings, "-o", output, "--resume", "--num_beams", 2) == 2
    assert "num_beams" in capsys.readouterr().err
    assert transcribe(model, recordings, "-o", output, "--resume") == 1
    assert len(output.read_text().splitlines()) == 3


def test_subtitles(tiny_seq2seq, recordings: Path, tmp_path: Path) -> None:
    assert (
        transcribe(tiny_seq2seq("whisper-en"), recordings / "2.wav", "--format", "srt", "-o", tmp_path / "a.srt") == 0
    )
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:0")


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("whisper-en", ["--language", "de"], "writes only English"),
        ("whisper-en", ["--task", "translate"], "only transcribes"),
        ("whisper", ["--language", "fr"], "has no token for it"),
        ("whisper", ["--num_beams", "0"], "needs at least one hypothesis"),
    ],
)
def test_options_that_do_not_suit_the_model(tiny_seq2seq, recordings, capsys, kind, options, problem) -> None:
    assert transcribe(tiny_seq2seq(kind), recordings, *options) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--prompt", "x"], ["--temperature_fallback"], ["--num_beams", "5"]])
def test_a_ctc_model_refuses_them(tiny_directory, recordings, capsys, options) -> None:
    assert transcribe(tiny_directory("wav2vec2-group"), recordings, *options) == 2
    assert f"{options[0]} " in (message := capsys.readouterr().err)
    assert "only models that write token by token have it" in message


def test_transcriber_finds_times_unless_they_are_not_wanted(tiny_seq2seq, recordings: Path) -> None:
    model = tiny_seq2seq("whisper")
    timed = Transcriber(model, device="cpu")(recordings / "1.wav")
    plain = Transcriber(model, device="cpu", times=False)(recordings / "1.wav")
    assert (plain.text, plain.language, plain.words) == (timed.text, timed.language, ())
    assert [word.text for word in timed.words] == timed.text.split()
    beams = Transcriber(model, device="cpu", generation=Generation(language="es", num_beams=2))(recordings / "1.wav")
    assert beams.language == "es"


def test_evaluation_records_the_search(tiny_seq2seq, recordings: Path, tmp_path: Path) -> None:
    rows = "".join(f"recordings/{number}.wav,the cat\n" for number in range(3))
    (tmp_path / "corpus.csv").write_text("path,text\n" + rows)
    model = str(tiny_seq2seq("whisper"))
    options = ["--num_beams", "2", "--language", "en", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["evaluate", model, "--source", str(tmp_path / "corpus.csv"), *options]) == 0
    (found,) = (tmp_path / "out").rglob("*.json")
    figures = json.loads(found.read_text())
    assert figures["decoding"] == {"search": "beam", "language": "en", "num_beams": 2}
    assert figures["loss"] > 0
    assert figures["mean_logprob"] < 0


def test_a_task_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"task translation: there is no such task.\n-> choose transcribe or translate"):
        Generation(task="translation")  # type: ignore[arg-type]
