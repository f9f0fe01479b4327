"""A whole comparison with real runs: killed, stopped, continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from forked import Program

from sft_speech.cli import main
from sft_speech.errors import RESUMABLE


def wait_for(condition: Callable[[], bool], process: Program, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def base(tones, small, tmp_path) -> Path:
    """The YAML of a comparison of a rate, and of a strategy that cannot work."""
    run = {
        "model": str(small),
        "source": str(tones),
        "train_split": "train-tones",
        "eval_split": "dev-tones",
        "max_batch_seconds": 6,
        "max_steps": 60,
        "eval_steps": 20,
        "logging_steps": 20,
        "mask_time_length": 2,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    strategies = {"right": {"learning_rate": 1e-3}, "wrong": {"target_lang": "xyz"}}
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({"base": run, "strategies": strategies}, sort_keys=False))
    return file


@pytest.mark.slow
def test_killed_and_stopped_it_continues(base, tmp_path, tones, small, start_python):
    """The candidate ends with the weights of an undisturbed run, bit for bit."""
    out = tmp_path / "out"
    command = ["compare", "--config", str(base), "-o", str(out)]
    right = out / "runs" / "right"

    def begin() -> Program:
        return start_python("import sys; from sft_speech.cli import main; sys.exit(main(sys.argv[1:]))", *command)

    killed = begin()
    wait_for((right / "checkpoint-20" / "files.json").exists, killed)
    run = json.loads((right / ".run.json").read_text())["pid"]
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while Path(f"/proc/{run}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not Path(f"/proc/{run}").exists(), "the run goes on without its parent"
    assert not (right / "model.safetensors").exists()

    stopped = begin()
    wait_for((right / "checkpoint-40" / "files.json").exists, stopped)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(120) == RESUMABLE
    assert "stopped, saved at step" in (out / "logs" / "runs" / "right.log").read_text()

    assert main(command) == 0
    alone = ["--config", str(right / "run.yaml"), "-o", str(tmp_path / "alone")]
    assert main(["finetune-asr", *alone]) == 0
    weights = (right / "model.safetensors").read_bytes()
    assert (tmp_path / "alone" / "model.safetensors").read_bytes() == weights

    result = json.loads((out / "result.json").read_text())
    by_name = {one["name"]: one for one in result["candidates"]}
    assert {name: one["status"] for name, one in by_name.items()} == {"right": "finished", "wrong": "failed"}
    assert f"target_lang xyz: {small} has no adapters for languages" in by_name["wrong"]["why"]
    found = by_name["right"]
    assert found["updates"] == 60
    assert 0 < found["trained_parameters"] < found["parameters"]
    assert found["peak_bytes"] > 1e8
    assert found["seconds_per_update"] > 0
    assert 0 < found["cpu_seconds_per_update"] * found["updates"] == found["training_seconds"]
    assert found["audio_seconds_per_cpu_second"] > 0
    assert result["times"] == "CPU"
    assert found["audio_seconds_per_second"] > 0
    assert (out / "compare.html").is_file()


def test_refused_without_a_trace(base, tmp_path, capfd):
    """Nothing is written, and the error is a line and a hint."""
    cases = {
        ("--vary", "seed=1,2", "--max_runs", "3"): "4 runs: more than 3 are refused",
        ("--vary", "learning_rate=1,2"): "learning_rate is set by two of them",
        ("--vary", "model=/none/a,/none/b"): "/none/a: there is no such directory",
        ("--vary", "test_splits=[a],[b]"): "two candidates with different test sets cannot be compared",
        ("--label_column", "x"): "--label_column: speech recognition has no such option",
        ("--runs", "a", "b"): "--runs with --config: finished runs are not trained",
    }
    for words, message in cases.items():
        assert main(["compare", "--config", str(base), *words, "-o", str(tmp_path / "out")]) == 2
        assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_comparisons_in_one_directory(base, tmp_path, capfd):
    from sft_speech.training.lock import OutputLock

    (tmp_path / "out").mkdir()
    script = "import sys; from pathlib import Path; from sft_speech.training.lock import OutputLock\n"
    script += "OutputLock(Path(sys.argv[1])).hold(); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    assert main(["compare", "--config", str(base), "-o", str(tmp_path / "out")]) == 2
    assert f"process {other.pid} on {os.uname().nodename} is running in it" in capfd.readouterr().err
    other.communicate("")
    lock = OutputLock(tmp_path / "out")
    lock.hold()
    lock.close()
