"""The starting checkpoint is evaluated before step 1: the results, the log and the card show what training changes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sft_speech.cli import main
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.ctc.task import CtcRecognition
from sft_speech.training.task import Task

RANDOM = "--mask_time_prob 0.3 --augment --hidden_dropout 0.1 --layerdrop 0.2".split()


@pytest.fixture
def short(arguments) -> list[str]:
    """A run of two steps."""
    return [*arguments, "--max_steps", "2", "--eval_steps", "1"]


@pytest.fixture(scope="module")
def done(tones, small, tmp_path_factory) -> Path:
    """The output of the run `short`; no test changes it."""
    keys = {"model": small, "source": tones, "train_split": "train-tones", "eval_split": "dev-tones"}
    keys |= {"output_dir": tmp_path_factory.mktemp("done") / "out", "max_batch_seconds": 6, "learning_rate": 1e-3}
    keys |= {"max_steps": 2, "eval_steps": 1, "logging_steps": 1, "mask_time_length": 2, "dataloader_num_workers": 0}
    assert main(["finetune-asr", *(f"--{key}={value}" for key, value in keys.items()), "--report_to=none"]) == 0
    return keys["output_dir"]


@pytest.fixture
def stopped(done, tmp_path) -> Path:
    """A copy of it in `out`, as if it had been killed after step 1."""
    out = Path(shutil.copytree(done, tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-2")))
    (out / ".run.json").write_text("{}")
    return out


def results(output: Path) -> dict[str, float]:
    return json.loads((output / "all_results.json").read_text())


def before(output: Path) -> dict[str, float]:
    return {name: value for name, value in results(output).items() if name.startswith("before_")}


def history(output: Path) -> list[dict[str, float]]:
    return json.loads((output / "log_history.json").read_text())["log_history"]


def test_both_figures_are_everywhere(short, tmp_path, caplog):
    """The random model makes 39 word errors in 36 words; a model that learned to be silent makes 36."""
    caplog.set_level("INFO", "sft_speech")
    keys = ["--test_splits", "train-tones", "--max_steps", "16", "--eval_steps", "16", "--learning_rate", "3e-3"]
    assert main([*short, *keys, "--report_to", "tensorboard"]) == 0
    out, found = tmp_path / "out", results(tmp_path / "out")
    assert (found["before_eval_wer"], found["eval_wer"]) == (39 / 36, 1.0)
    assert found["before_train-tones_wer"] > found["train-tones_wer"] == 1.0
    assert history(out)[0]["step"] == 0
    assert history(out)[0]["eval_wer"] == 39 / 36
    lines = (out / "evaluation" / "before" / "dev-tones.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["word_errors"] for line in lines) == 39
    assert json.loads((out / "evaluation" / "before" / "dev-tones.json").read_text())["wer"] == 39 / 36
    (line,) = [one for one in caplog.messages if one.startswith("dev-tones: WER")]
    assert line.startswith(
        "dev-tones: WER 108.33 % -> 100.00 % (difference -8.33, paired 95 % interval -20.00 to +0.00"
    )
    assert not [one for one in caplog.messages if "is worse than the checkpoint" in one]
    card = (out / "README.md").read_text()
    assert "| dev-tones (before fine-tuning) | LibriSpeech | 12 | 0.00 | 108.33 |" in card
    assert card.index("dev-tones (before fine-tuning)") < card.index("| dev-tones | LibriSpeech | 12 | 0.00 | 100.00 (")
    assert tensorboard(out, "eval/wer") == [(0, pytest.approx(39 / 36)), (16, 1.0)]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ  # the next run of this process has a folder of its own


def tensorboard(output: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_it_does_not_change_the_training(short, tmp_path, outcome, monkeypatch):
    """Not even if it draws random numbers."""

    def draw(self, rows):
        random.random(), np.random.random(), torch.rand(1)
        return self.evaluate(rows)

    monkeypatch.setattr(Task, "evaluate_at_start", draw)
    assert main([*short, *RANDOM]) == 0
    assert main([*short, *RANDOM, "--evaluate_before", "false", "--output_dir", str(tmp_path / "off")]) == 0
    on, off = outcome(tmp_path / "out"), outcome(tmp_path / "off")
    assert (on["weights"], on["losses"]) == (off["weights"], off["losses"])
    assert on["evaluations"][0][0] == 0
    assert on["evaluations"][1:] == off["evaluations"]
    assert before(tmp_path / "off") == {}
    assert not (tmp_path / "off" / "evaluation" / "before").exists()


def test_a_killed_run_keeps_the_figures(short, done, tmp_path, faulty_run, caplog):
    fault = ("open", "checkpoint-2/files.json.*.part", "kill", "")
    assert faulty_run(short, faults=[fault]).exit_code() == -signal.SIGKILL
    caplog.set_level("INFO", "sft_speech")
    assert main([*short, "--resume_from_checkpoint", "auto"]) == 0
    assert before(tmp_path / "out") == before(done) != {}
    assert [entry["step"] for entry in history(tmp_path / "out") if "eval_wer" in entry] == [0, 1, 2]
    (line,) = [one for one in caplog.messages if one.startswith("dev-tones: WER 108.33 % -> ")]
    assert "paired 95 % interval" in line
    assert "before training" not in caplog.text, "it is not evaluated again"


@pytest.mark.parametrize("keys", [[], ["--eval_split", "dev-tones:6"]])
def test_resumed_elsewhere(short, done, tmp_path, caplog, keys):
    """The checkpoint holds the figures but no utterances for an interval; figures of other splits are dropped."""
    caplog.set_level("INFO", "sft_speech")
    out = tmp_path / "out"
    shutil.copytree(done / "evaluation" / "before", out / "evaluation" / "before")  # of a run that was removed
    assert main([*short, "--resume_from_checkpoint", str(done / "checkpoint-1"), *keys]) == 0
    assert before(out) == ({} if keys else before(done))
    lines = [one for one in caplog.messages if " -> " in one]
    assert [line.startswith("dev-tones: WER 108.33 % -> ") for line in lines] == ([] if keys else [True])
    assert "interval" not in "".join(lines)
    assert not (out / "evaluation" / "before").exists()


def test_a_checkpoint_of_an_older_version_is_resumed(short, stopped):
    state = stopped / "checkpoint-1" / "trainer_state.json"
    content = json.loads(state.read_text())
    assert content["stateful_callbacks"].pop("BeforeAndAfter")
    state.write_text(json.dumps(content))
    assert main([*short, "--resume_from_checkpoint", "auto"]) == 0
    assert before(stopped) == {}


def test_a_damaged_side_file_does_not_end_a_run(short, stopped, caplog):
    file = stopped / "evaluation" / "before" / "dev-tones.jsonl"
    file.write_text(file.read_text()[:-20])
    assert main([*short, "--resume_from_checkpoint", "auto"]) == 0
    assert f"{file} cannot be read" in caplog.text
    assert "before_eval_wer" in results(stopped)


def test_a_run_that_ends_worse_says_so(short, tmp_path, caplog):
    caplog.set_level("INFO", "sft_speech")
    assert main([*short, "--learning_rate", "10", "--warmup_steps", "0", "--metric_for_best_model", "loss"]) == 0
    found = results(tmp_path / "out")
    assert found["eval_loss"] > found["before_eval_loss"] == pytest.approx(6.0897, abs=1e-3)
    (warning,) = [one for one in caplog.records if "is worse than the checkpoint" in one.message]
    assert warning.levelname == "WARNING"
    for part in ("(dev-tones: loss 6.0897 -> ", "lower learning_rate (now 10)", "fewer epochs", "out/run.yaml`"):
        assert part in warning.message
    command = warning.message.split("`")[1].split()
    assert command[:3] == ["sft-speech", "check", "--config"]
    assert main(command[1:]) == 0


@pytest.mark.parametrize(
    ("source", "command"), [("corpus", "sft-speech check --config 'my run/run.yaml'"), ("in memory", "")]
)
def test_the_command_that_checks_the_data(source, command):
    config = FinetuneAsrConfig(model="checkpoint", source=source, output_dir="my run")
    assert CtcRecognition(config).data_check() == command


@pytest.mark.parametrize("keys", [["--new_vocabulary"], ["--eval_split", "null"]])
def test_a_new_head_or_a_run_without_splits_is_not_evaluated(short, tmp_path, keys):
    assert main([*short, *keys]) == 0
    out = tmp_path / "out"
    assert before(out) == {}
    assert not (out / "evaluation" / "before").exists()
    assert [entry for entry in history(out) if entry["step"] == 0] == []
    assert "before fine-tuning" not in (out / "README.md").read_text()


def test_without_eval_split_the_test_splits_are_compared(short, tmp_path, caplog):
    caplog.set_level("INFO", "sft_speech")
    assert main([*short, "--eval_split", "null", "--test_splits", "dev-tones"]) == 0
    assert before(tmp_path / "out")["before_dev-tones_wer"] == 39 / 36
    assert [one for one in caplog.messages if one.startswith("dev-tones: WER 108.33 % -> ")]


def test_a_failed_evaluation_does_not_block_the_next_run(short, tmp_path, capsys, monkeypatch):
    from sft_speech.audio import read as audio
    from sft_speech.inference import clips

    def unreadable(*_, **__):
        raise audio.AudioError("unreadable", "gone")

    with monkeypatch.context() as patch:
        patch.setattr(clips, "read", unreadable)
        assert main(short) == 2
    assert "none of its utterances could be read" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.yaml").exists()
    assert main(short) == 0


def test_the_largest_batch_of_a_recognizer_is_measured(arguments, tmp_path):
    assert main([*arguments, "--max_steps", "1", "--max_batch_seconds", "auto", "--evaluate_before", "false"]) == 0
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["max_batch_seconds"] == "auto"
