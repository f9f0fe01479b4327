"""Pseudo-labels of tiny teachers: the manifest, resuming, several processes, and a run on the result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech import Transcriber, load_corpus, pseudo_label
from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.inference import shards
from sft_speech.inference.shards import Shards
from sft_speech.tasks.asr.pseudo import verb
from sft_speech.tasks.asr.pseudo.filters import Filters
from sft_speech.tasks.asr.pseudo.label import Teacher

RATE = 16_000
CPU = {"device": "cpu"}
ANY = Filters(chars_per_second=(0.0, 1000.0))


@pytest.fixture(scope="module")
def model(tiny_directory):
    return tiny_directory("wav2vec2-group")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve clips of 0.3 to 0.5 s, and one that cannot be read."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(3)
    for number in range(12):
        soundfile.write(folder / f"{number:02}.wav", rng.normal(0, 0.1, 4800 + 300 * number), RATE)
    (folder / "bad.wav").write_bytes(b"RIFF, but no audio")
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(model, *arguments) -> int:
    bounds = ("--chars_per_second", 0, 1000, "--device", "cpu")
    return main(["pseudo-label", str(model), *map(str, (*bounds, *arguments))])


def test_a_folder_of_recordings_becomes_a_corpus(model, clips, tmp_path, capsys):
    output = tmp_path / "corpus.jsonl"
    assert run(model, "--source", clips, "-o", output) == 0
    rows, rejected = rows_of(output), rows_of(tmp_path / "corpus.rejected.jsonl")
    expected = Transcriber(model, device="cpu")([clips / row["id"] for row in rows])
    assert [row["text"] for row in rows] == [one.text for one in expected]
    assert [row["confidence"] for row in rows] == [round(one.confidence, 4) for one in expected]
    assert len(rows) + len(rejected) == 12  # the broken one has no length, and gets no label
    assert {row["weight"] for row in rows} == {1.0}
    assert rows[0] | {"text": "", "confidence": 0} == {
        "id": "00.wav",
        "audio": str(clips / "00.wav"),
        "text": "",
        "seconds": 0.3,
        "confidence": 0,
        "weight": 1.0,
    }
    report = json.loads((tmp_path / "corpus.report.json").read_text())
    assert (report["kept"]["rows"], sum(report["dropped"].values())) == (len(rows), 1)
    printed = capsys.readouterr().out
    assert f"kept {'':<25} {len(rows):>9}" in printed
    assert "\nnot read: " in printed
    corpus = load_corpus(output)
    assert corpus["text"][:] == [row["text"] for row in rows]
    assert corpus["weight"][:] == [1.0] * len(rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "corpus.jsonl", "corpus.labels", "corpus.rejected.jsonl", "corpus.report.json",
    ]  # fmt: skip


def test_rows_without_a_transcript_and_segments(model, clips, tmp_path):
    given = [
        {"audio": str(clips / "00.wav"), "text": "known", "speaker": "anna"},
        {"audio": str(clips / "01.wav"), "text": "", "speaker": "anna"},
        {"audio": str(clips / "02.wav"), "start": 0.1, "end": 0.3, "speaker": "bob"},
    ]
    source, output = tmp_path / "some.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    labels = pseudo_label(Teacher(str(model), CPU), source, output, filters=ANY, weight="confidence")
    first, second = rows_of(output)
    assert labels.report["labelled_before"] == 1
    assert not (tmp_path / "out.report.png").exists()  # errors are unknown
    assert (first["speaker"], second["speaker"], second["start"], second["end"]) == ("anna", "bob", 0.1, 0.3)
    assert first["weight"] == first["confidence"] > 0
    assert load_corpus(output)["seconds"][1] == pytest.approx(0.2)
    rows = load_corpus(source, columns={"text": None})  # as a run of self-training has them
    again = pseudo_label(Teacher(str(model), CPU), rows, tmp_path / "all.jsonl", filters=ANY, ignore_text=True)
    assert again.report["kept"]["rows"] == 3
    assert rows_of(tmp_path / "all.jsonl")[0]["reference"] == "known"
    assert again.report["wer"] > 0
    assert (tmp_path / "all.report.png").read_bytes().startswith(b"\x89PNG")


def test_audio_inside_tables_is_written_into_files(model, clips, tmp_path):
    """As in a parquet file, with and without names; rejected labels need no files."""
    from datasets import Dataset

    encoded = [(clips / f"{number:02}.wav").read_bytes() for number in range(3)]
    names = ["a/first.wav", None, "third.wav"]
    audio = [{"path": name, "bytes": content} for name, content in zip(names, encoded, strict=True)]
    source, output = tmp_path / "part.parquet", tmp_path / "out.jsonl"
    Dataset.from_dict({"audio": audio, "speaker": ["a", "b", "c"]}).to_parquet(source)
    assert run(model, "--source", source, "-o", output, "--keep_share", 0.6) == 0
    kept = rows_of(output)
    assert len(kept) == 2
    files = {Path(row["audio"]): row["speaker"] for row in kept}
    assert {file.parent for file in files} == {tmp_path / "out.audio"}
    assert sorted((tmp_path / "out.audio").iterdir()) == sorted(files)
    for file, speaker in files.items():
        assert (file.read_bytes(), file.suffix) == (encoded["abc".index(speaker)], ".wav")
    texts = [one.text for one in Transcriber(model, device="cpu")([row["audio"] for row in kept])]
    assert load_corpus(output)["text"][:] == texts
    assert run(model, "--source", source, "-o", output, "--resume") == 0  # nothing is transcribed again
    assert len(rows_of(output)) == 3
    output.unlink()
    with pytest.raises(UserError, match="already exists"):
        pseudo_label(model, source, output)


def test_a_corpus_that_is_labelled(model, clips, tmp_path):
    source = tmp_path / "all.jsonl"
    source.write_text(json.dumps({"audio": str(clips / "00.wav"), "text": "known"}) + "\n")
    with pytest.raises(UserError, match="with --ignore_text"):
        pseudo_label(model, source, tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.jsonl"]


def test_recordings_beside_those_that_have_a_transcript(model, clips, tmp_path):
    for name in ("00", "01", "02"):
        os.link(clips / f"{name}.wav", tmp_path / f"{name}.wav")
    (tmp_path / "01.txt").write_text("known")
    labels = pseudo_label(Teacher(str(model), CPU), tmp_path, tmp_path / "out.jsonl", filters=ANY)
    assert [row["id"] for row in rows_of(labels.manifest)] == ["00", "02"]


def test_a_run_is_resumed_and_filtered_again(model, clips, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(shards, "BLOCK", 4)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    command = ("--source", clips, "-o")
    assert run(model, *command, whole) == 0
    write, left = Shards.write, iter(range(2))

    def failing(self, first, lines):
        if next(left, None) is None:
            raise RuntimeError("the disk is gone")
        write(self, first, lines)

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "write", failing)
        with pytest.raises(RuntimeError):
            run(model, *command, output)
    assert run(model, *command, output) == 2
    assert "out.labels already exists" in capsys.readouterr().err
    assert run(model, *command, output, "--resume") == 0
    assert output.read_bytes() == whole.read_bytes()
    assert run(model, *command, output) == 2
    monkeypatch.setattr(Teacher, "load", None)  # nothing is transcribed from here on
    confidences = sorted(row["confidence"] for row in rows_of(whole))
    limit = ("--min_confidence", confidences[len(confidences) // 2])
    caplog.clear()
    assert run(model, *command, output, "--resume", *limit) == 0
    assert ", all labelled already" in caplog.text
    assert min(row["confidence"] for row in rows_of(output)) == limit[1]
    rejected = [row["reason"] for row in rows_of(tmp_path / "out.rejected.jsonl")]
    assert rejected.count("low confidence") == len(confidences) // 2
    assert run(model, *command, output, "--resume", "--min_confidence", 1) == 2
    assert "none passes the filters" in capsys.readouterr().err
    assert not output.exists()
    os.utime(model / "model.safetensors")
    assert run(model, *command, output, "--resume") == 2
    assert "were made with other teacher 1" in capsys.readouterr().err


def test_nothing_of_somebody_else_is_overwritten(model, clips, tmp_path):
    source = tmp_path / "mine.jsonl"
    source.write_text(json.dumps({"audio": str(clips / "00.wav")}) + "\n")
    with pytest.raises(UserError, match="it is the source"):
        pseudo_label(model, source, source, resume=True)
    (tmp_path / "other.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"other\.labels"):
        pseudo_label(model, source, tmp_path / "other.jsonl", resume=True)
    assert (tmp_path / "other.jsonl").read_text() == "mine"


def test_two_teachers(model, tiny_directory, clips, tmp_path):
    other = tiny_directory("wav2vec2-layer")
    filters = Filters(chars_per_second=(0.0, 1000.0), max_wer=0.0)
    given = (Teacher(str(model), CPU), clips, tmp_path / "same.jsonl")
    same = pseudo_label(*given, filters=filters, second_teacher=Teacher(str(model), CPU))
    assert "teachers differ" not in same.report["rejected"]
    with pytest.raises(UserError, match="rejected: teachers differ"):
        pseudo_label(*given[:2], tmp_path / "other.jsonl", filters=filters, second_teacher=Teacher(str(other), CPU))
    rejected = rows_of(tmp_path / "other.rejected.jsonl")
    assert next(row["detail"] for row in rejected if row["reason"] == "teachers differ").startswith("WER ")


def test_several_processes(model, clips, tmp_path, monkeypatch):
    """The last one writes the manifest, which is the same as that of one process."""
    monkeypatch.setattr(shards, "BLOCK", 2)
    monkeypatch.setattr(verb, "end_with_parent", lambda: None)
    command = ("--source", clips, "--second_teacher", model, "-o")
    assert run(model, *command, tmp_path / "whole.jsonl") == 0
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in "021":
        monkeypatch.setenv("RANK", rank)
        assert run(model, *command, tmp_path / "out.jsonl") == 0
        assert (tmp_path / "out.jsonl").exists() == (rank == "1")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_launch(model, clips, tmp_path, monkeypatch, caplog):
    started = []

    def launch(arguments, num_processes):  # in this process, which stands for all of them
        started.append(num_processes)
        return main(arguments)

    monkeypatch.setattr(verb, "launch", launch)
    command = ("--source", clips, "-o", tmp_path / "out.jsonl", "--num_processes", 2)
    assert run(model, *command) == 0
    assert (started, (tmp_path / "out.jsonl").exists()) == ([2], True)
    assert run(model, *command, "--resume", "--keep_share", 0.5) == 0  # nothing to launch for
    assert started == [2]
    monkeypatch.setattr(verb, "launch", lambda *_: 1)
    assert run(model, "--source", clips, "-o", tmp_path / "bad.jsonl", "--num_processes", 2) == 1
    assert "bad.jsonl is unfinished: the same command with --resume continues it" in caplog.text


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), "much"])
def test_weights_that_mean_nothing(model, clips, tmp_path, weight):
    with pytest.raises(UserError, match=r"weight .*factor on the loss"):
        pseudo_label(model, clips, tmp_path / "out.jsonl", weight=weight)


@pytest.mark.skipif(
    not {"SFT_SPEECH_DATA", "SFT_SPEECH_WHISPER"} <= os.environ.keys(), reason="real speech and a real Whisper"
)
def test_a_real_whisper_on_real_speech(tmp_path):
    """Its confidence separates right from wrong: the surer half has fewer errors."""
    source = Path(os.environ["SFT_SPEECH_DATA"], "LibriSpeech")
    rows = load_corpus(source, "dev-clean")
    rows = rows.select([place for place, seconds in enumerate(rows["seconds"][:]) if seconds < 4][:8])
    labels = pseudo_label(
        Teacher(os.environ["SFT_SPEECH_WHISPER"], CPU), rows, tmp_path / "out.jsonl", ignore_text=True
    )
    assert labels.report["kept"]["rows"] == len(rows)
    assert labels.report["wer"] < 0.25
    assert rows_of(labels.manifest)[0]["language"] == "en"
    assert 0.4 < labels.report["confidence"]["quantiles"]["0.5"] < 1
