"""A new task is one file and one line: `tests/toy_task.py`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from sft_speech.cli import main
from sft_speech.tasks import TASKS, task_of


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", "toy_task")


@pytest.fixture
def command(tones, tmp_path) -> list[str]:
    keys = {"model": "loudness", "source": tones, "train_split": "train-tones", "eval_split": "dev-tones"}
    keys |= {"output_dir": tmp_path / "out", "max_steps": 12, "eval_steps": 4, "logging_steps": 2, "learning_rate": 0.5}
    keys |= {"max_batch_seconds": 6, "dataloader_num_workers": 0, "report_to": "none", "save_total_limit": 5}
    return ["finetune-toy", *(f"--{key}={value}" for key, value in keys.items())]


def test_the_toy_task_is_short():
    assert len((Path(__file__).parents[1] / "toy_task.py").read_text().splitlines()) <= 120


def test_it_is_trained_and_evaluated_and_has_a_card_and_a_verb(command, tmp_path, capsys):
    assert main(command) == 0
    out = tmp_path / "out"
    figures = json.loads((out / "all_results.json").read_text())
    state = json.loads((out / "checkpoint-12/trainer_state.json").read_text())
    found = [entry["eval_close"] for entry in state["log_history"] if "eval_close" in entry]
    assert figures["eval_close"] == max(found) == state["best_metric"], "more is better"
    assert found[-1] > 0 < figures["train_loss"]
    head = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert head["pipeline_tag"] == "other"
    assert head["model-index"][0]["results"][0]["metrics"][0]["name"] == "close %"
    assert "fine-tuned for loudness estimation" in (out / "README.md").read_text()
    assert task_of(out).name == "toy"
    assert main(["--help"]) == 0
    assert "finetune-toy" in capsys.readouterr().out


def test_a_killed_run_resumes_to_the_same_weights(command, tmp_path, faulty_run):
    assert main(command) == 0
    again = [*command, f"--output_dir={tmp_path / 'killed'}"]
    at = ("open", "checkpoint-8/files.json.*.part", "kill", "")
    assert faulty_run(again, faults=[at], imports=["toy_task"]).exit_code() == -signal.SIGKILL
    assert main([*again, "--resume_from_checkpoint=auto"]) == 0
    killed, whole = (tmp_path / name / "model.safetensors" for name in ("killed", "out"))
    assert killed.read_bytes() == whole.read_bytes()


def test_it_has_what_every_task_has_against_forgetting(command, tmp_path):
    """Its starting checkpoint cannot be evaluated, and its metric has no interval."""
    assert main([*command, "--interpolate", "auto"]) == 0
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    mixed = figures["interpolation"]
    assert mixed["rule"] == "the share with the best close on the evaluation split"
    best = max(row["close"] for row in mixed["curve"])
    assert mixed["share"] == min(row["share"] for row in mixed["curve"] if row["close"] == best)
    assert figures["eval_close"] == best
