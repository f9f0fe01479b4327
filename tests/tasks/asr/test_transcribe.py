"""Transcripts of many recordings: in several processes, killed, and resumed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.inference import shards as parts
from sft_speech.inference.shards import Shards
from sft_speech.tasks.asr import transcribe
from sft_speech.tasks.asr.transcriber import Transcriber

RATE = 16_000
RECORDINGS = int(os.environ.get("SFT_SPEECH_RECORDINGS", 1000))  # of the run that is killed


@pytest.fixture(scope="module")
def model(tiny_directory):
    return tiny_directory("wav2vec2-group")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Forty clips of 0.2 to 0.6 s, unlike each other."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(3)
    for number in range(40):
        time = np.arange(3200 + 160 * number) / RATE
        tone = np.sin(np.cumsum(rng.uniform(0, 2, 12).repeat(len(time) // 12 + 1))[: len(time)])
        soundfile.write(folder / f"{number:02}.wav", 0.3 * tone + rng.normal(0, 0.02, len(time)), RATE)
    return folder


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(parts, "BLOCK", 8)


def run(model, *arguments, format: str = "jsonl") -> int:
    return main(["transcribe", str(model), "--device", "cpu", "--format", format, *map(str, arguments)])


@pytest.fixture
def broken_after(monkeypatch):
    """`with broken_after(n)`: the disk fails after n parts."""
    write = Shards.write

    @contextmanager
    def broken(count: int) -> Iterator[None]:
        left = iter(range(count))

        def failing(self: Shards, first: int, lines: list[bytes]) -> None:
            if next(left, None) is None:
                raise RuntimeError("the disk is gone")
            write(self, first, lines)

        with monkeypatch.context() as patch:
            patch.setattr(Shards, "write", failing)
            yield

    return broken


def test_shards_hold_what_a_stream_gives(model, clips, tmp_path, small_blocks):
    for format, output in (("jsonl", tmp_path / "a.jsonl"), ("text", tmp_path / "a.txt")):
        assert run(model, clips, "-o", output, format=format) == 0
    names = [str(clips / f"{number:02}.wav") for number in range(40)]
    expected = [one.text for one in Transcriber(model, device="cpu")(list(map(Path, names)))]
    assert len(set(expected)) > 10
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["audio"] for row in rows] == names
    assert [row["text"] for row in rows] == expected
    assert (tmp_path / "a.txt").read_text() == "".join(
        f"{name}\t{text}\n" for name, text in zip(names, expected, strict=True)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.txt"]


@pytest.mark.parametrize("format", ["jsonl", "text"])
def test_an_unfinished_run_is_resumed(model, clips, tmp_path, small_blocks, broken_after, format, capsys, caplog):
    (tmp_path / "bad.wav").write_bytes(b"text")
    command = (clips, tmp_path / "bad.wav", "-o")
    assert run(model, *command, tmp_path / "whole", format=format) == 1
    with broken_after(3), pytest.raises(RuntimeError):
        run(model, *command, tmp_path / "out", format=format)
    assert "out is unfinished: the same command with --resume continues it" in caplog.text
    assert not (tmp_path / "out").exists()
    assert run(model, *command, tmp_path / "out", format=format) == 2
    assert "holds an unfinished run" in capsys.readouterr().err
    assert run(model, *command, tmp_path / "out", "--max_batch_seconds", 2, "--resume", format=format) == 1
    assert "1 of 41 recordings could not be transcribed" in caplog.text
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len((tmp_path / "out").read_text().splitlines()) == (41 if format == "jsonl" else 40)
    assert run(model, *command, tmp_path / "out", format=format) == 2
    assert "it already exists" in capsys.readouterr().err
    assert run(model, *command, tmp_path / "out", "--resume", format=format) == 0
    assert "nothing is left to do" in caplog.text
    assert run(model, clips, "-o", tmp_path / "out", "--resume", format=format) == (2 if format == "jsonl" else 0)
    assert run(model, clips / "00.wav", clips / "01.wav", "-o", tmp_path / "out", "--resume", format=format) == 2
    assert "2 recordings are given" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_other_inputs(model, clips, tmp_path, small_blocks, broken_after, capsys):
    output = tmp_path / "out.jsonl"
    with broken_after(1), pytest.raises(RuntimeError):
        run(model, clips, "-o", output)
    for others, message in (
        ((clips / "00.wav", clips / "01.wav"), "started with other recordings"),
        ((clips, "--timestamps", "word"), "started with other timestamps"),
    ):
        assert run(model, *others, "-o", output, "--resume") == 2
        assert message in capsys.readouterr().err
    os.utime(model / "model.safetensors")
    assert run(model, clips, "-o", output, "--resume") == 2
    assert "started with other files of the model" in capsys.readouterr().err


def test_a_run_that_could_not_start_leaves_nothing(clips, tmp_path, capsys):
    assert run(tmp_path / "no_model", clips, "-o", tmp_path / "out.jsonl") == 2
    assert list(tmp_path.iterdir()) == []
    assert run("model", clips, "-o", tmp_path / "nowhere" / "out.jsonl") == 2
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err


def test_recordings_from_a_list(model, clips, tmp_path, monkeypatch, capsys):
    listed = f"\ufeff{clips / '01.wav'}\r\n\n{tmp_path / 'missing.wav'}\n{clips / '00.wav'}"
    (tmp_path / "list.txt").write_text(listed, "utf-8")
    assert run(model, clips / "02.wav", "--files_from", tmp_path / "list.txt", "-o", tmp_path / "out") == 1
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [Path(row["audio"]).name for row in rows] == ["02.wav", "01.wav", "missing.wav", "00.wav"]
    assert [bool(row.get("error")) for row in rows] == [False, False, True, False]
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    assert run(model, "--files_from", "-") == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows[1:]


@pytest.mark.parametrize("format", ["jsonl", "text", "srt"])
def test_missing_transcripts_of_several_processes_are_told_by_the_exit_code(
    model, clips, tmp_path, small_blocks, monkeypatch, format
):
    def launch(arguments, num_processes):  # in this process, which stands for all of them
        assert num_processes == 2
        return 0 if main(arguments) in (0, 1) else 2

    monkeypatch.setattr(transcribe, "launch", launch)
    (tmp_path / "bad.wav").write_bytes(b"text")
    files, several = (clips / "00.wav", clips / "01.wav"), ("--num_processes", 2, "-o")
    assert run(model, *files, *several, tmp_path / "good", format=format) == 0
    assert run(model, *files, tmp_path / "bad.wav", *several, tmp_path / "part", format=format) == 1
    assert (tmp_path / "part").exists()


def test_every_recording_is_one_line_whatever_its_name(model, clips, tmp_path, monkeypatch):
    folder = tmp_path / "names"
    folder.mkdir()
    names = [b"a\nb.wav", b"\xff.wav", "é.wav".encode()]
    for name in names:
        os.link(clips / "00.wav", os.fsencode(folder) + b"/" + name)
    assert run(model, folder, "-o", tmp_path / "out.txt", format="text") == 0
    found = [line.split(b"\t")[0] for line in (tmp_path / "out.txt").read_bytes().splitlines()]
    assert sorted(found) == sorted(os.fsencode(folder) + b"/" + name.replace(b"\n", b"\\n") for name in names)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout := io.BytesIO(), encoding="utf-8"))
    assert run(model, folder, format="text") == 0
    assert stdout.getvalue() == (tmp_path / "out.txt").read_bytes()
    assert run(model, folder, "-o", tmp_path / "out.jsonl") == 0
    rows = map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())
    assert sorted(os.fsencode(row["audio"]) for row in rows) == sorted(os.fsencode(folder) + b"/" + n for n in names)


def test_existing_subtitles_are_kept(model, clips, tmp_path, capsys):
    assert run(model, clips, "-o", tmp_path / "srt", format="srt") == 0
    expected = {path.name: path.read_text() for path in (tmp_path / "srt").iterdir()}
    assert len(expected) == 40
    assert run(model, clips, "-o", tmp_path / "srt", format="srt") == 2
    assert "00.srt already exists" in capsys.readouterr().err
    (tmp_path / "srt" / "07.srt").unlink()
    (tmp_path / "srt" / "08.srt").write_text("corrected by hand")
    assert run(model, clips, "-o", tmp_path / "srt", "--resume", format="srt") == 0
    expected["08.srt"] = "corrected by hand"
    assert {path.name: path.read_text() for path in (tmp_path / "srt").iterdir()} == expected


def test_an_existing_file_is_not_overwritten(model, clips, tmp_path, capsys):
    output = tmp_path / "00.srt"
    output.write_text("corrected by hand")
    assert run(model, clips / "00.wav", "-o", output, format="srt") == 2
    assert output.read_text() == "corrected by hand"
    assert "00.srt: it already exists" in capsys.readouterr().err


def test_several_processes_share_subtitles(model, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(transcribe, "end_with_parent", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in "201":
        monkeypatch.setenv("RANK", rank)
        assert run(model, clips, "-o", tmp_path / "srt", format="vtt") == 0
        assert len(list((tmp_path / "srt").iterdir())) == {"2": 13, "0": 27, "1": 40}[rank]


def test_the_last_of_several_processes_merges_the_shards(model, clips, tmp_path, small_blocks, monkeypatch):
    monkeypatch.setattr(transcribe, "end_with_parent", lambda: None)
    assert run(model, clips, "-o", tmp_path / "whole") == 0
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in "021":
        monkeypatch.setenv("RANK", rank)
        assert run(model, clips, "-o", tmp_path / "out") == 0
        assert (tmp_path / "out").exists() == (rank == "1")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_processes", 0), "give 1 or more"),
        (("--num_processes", 2), "several recordings and one output"),
        (("--files_from", "nowhere.txt"), "cannot be read (No such file"),
    ],
)
def test_arguments_that_cannot_work(clips, arguments, message, capsys):
    assert run("model", clips, *arguments) == 2
    assert message in capsys.readouterr().err


def test_arguments_that_cannot_work_within_a_launcher(clips, monkeypatch, capsys):
    monkeypatch.setattr(transcribe, "end_with_parent", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("model", clips, "--num_processes", 2) == 2
    assert "a launcher has already started 2 processes" in capsys.readouterr().err
    assert run("model", "--files_from", "-") == 2
    assert "only one process can read it" in capsys.readouterr().err
    assert run("model") == 2
    assert "there is nothing to transcribe" in capsys.readouterr().err


# Python imports it at its start, in the processes of a launcher too. Only the second one of two kills.
SITECUSTOMIZE = """
import os, signal, sys

def hook(event, args, left=[int(os.environ["KILL_AT_PART"])]):
    if event == "os.rename" and os.fspath(args[1]).endswith(".part"):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid() if os.environ["KILL"] == "itself" else os.getppid(), signal.SIGKILL)

if os.environ.get("RANK", "1") == "1":
    sys.addaudithook(hook)
"""


@pytest.fixture
def ended(run_python):
    """A function that returns exit code and stderr of a run in blocks so small that there is something to be killed in.

    Launchers that are to be killed by their processes are their parents, so these are no forks.
    """

    def run(model, folder, output, processes: int, **environment: str) -> tuple[int, str]:
        few = "from sft_speech.inference import shards; shards.BLOCK = 8"
        code = f"from sft_speech import cli; {few}; raise SystemExit(cli.main())"
        options = f"--format jsonl --device cpu --num_processes {processes} --resume -o".split()
        command = ["transcribe", str(model), str(folder), *options, str(output)]
        if environment.get("KILL") != "its launcher":
            code, _, shown = run_python(code, *command, **environment)
            return code, shown
        line = [sys.executable, "-c", code, *command]
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        shown = process.communicate(timeout=300)[1]  # until all processes that share stderr have ended
        return process.returncode, shown

    return run


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(model, clips, tmp_path, small_blocks, ended):
    """Set SFT_SPEECH_RECORDINGS for another number of recordings than some hundred."""
    folder = tmp_path / "many"
    for number in range(RECORDINGS):
        (folder / f"{number // 1000:04}").mkdir(parents=True, exist_ok=True)
        os.link(clips / f"{number * 7 % 40:02}.wav", folder / f"{number // 1000:04}" / f"{number % 1000:03}.wav")
    assert run(model, folder, "-o", tmp_path / "whole") == 0
    output, unfinished = tmp_path / "out", tmp_path / "out.parts"
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    finished = ""
    for processes, whom, part in ((1, "itself", "9"), (2, "itself", "2"), (2, "its launcher", "5")):
        code, shown = ended(model, folder, output, processes, PYTHONPATH=path, KILL=whom, KILL_AT_PART=part)
        launcher_lives = processes == 2 and whom == "itself"
        assert code == (1 if launcher_lives else -9), shown
        if whom == "its launcher" and output.exists():
            # Those whose launcher is killed take a moment to notice: time enough for a model as small as this.
            finished = f"{output} already exists: nothing is left to do\n"
            break
        assert not output.exists(), shown
        assert list(unfinished.glob("*.part"))
        assert not launcher_lives or shown.endswith("out is unfinished: the same command with --resume continues it\n")
    assert ended(model, folder, output, 2) == (0, finished)
    assert output.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not unfinished.exists()


def test_standard_input_holds_a_recording_or_a_list(model, clips, tmp_path, monkeypatch, capsys):
    def given(content: bytes, *arguments: object) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return run(model, "-", *arguments)

    (expected,) = Transcriber(model, device="cpu")([clips / "01.wav"])
    assert given((clips / "01.wav").read_bytes()) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["audio"], row["text"], row["seconds"]) == ("-", expected.text, round(expected.seconds, 3))
    assert given(f"{clips / '01.wav'}\n{clips / '02.wav'}\n".encode(), "-o", tmp_path / "out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [Path(row["audio"]).name for row in rows] == ["01.wav", "02.wav"]
    assert rows[0]["text"] == expected.text
    assert given(b"", "--num_processes", 2) == 2
    assert "only one process can read standard input" in capsys.readouterr().err


def test_subtitles_of_recordings_of_one_name_keep_their_folders(model, clips, tmp_path):
    for name in ("x", "y"):
        (tmp_path / "in" / name).mkdir(parents=True)
        os.link(clips / "00.wav", tmp_path / "in" / name / "a.wav")
    assert run(model, *(tmp_path / "in" / name / "a.wav" for name in "xy"), "-o", tmp_path / "srt", format="srt") == 0
    assert sorted(str(path.relative_to(tmp_path / "srt")) for path in (tmp_path / "srt").rglob("*.srt")) == [
        "x/a.srt",
        "y/a.srt",
    ]


def test_files_that_are_no_recordings_are_named_with_the_reason(model, clips, tmp_path, caplog):
    (tmp_path / "lfs.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    (tmp_path / "page.wav").write_bytes(b"<!doctype html><title>404</title>")
    assert run(model, tmp_path, clips / "00.wav", "-o", tmp_path / "out.jsonl") == 1
    assert "lfs.wav cannot be transcribed: a Git LFS pointer, not the recording: git lfs pull" in caplog.text
    assert "page.wav cannot be transcribed: a web page: download the recording again" in caplog.text
    assert "2 of 3 recordings could not be transcribed" in caplog.text
