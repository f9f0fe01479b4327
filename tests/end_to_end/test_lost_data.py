"""Recordings that disappear, break or change during a run, and workers that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import Trainer

from sft_speech.cli import main
from sft_speech.tasks.asr.ctc.collator import CTCCollator
from sft_speech.tasks.asr.ctc.task import CtcRecognition

FILES = [f"1/10/1-10-{number:04}.flac" for number in range(4)]


def losses(output: Path) -> list[float]:
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.fixture
def copy(tones, tmp_path) -> Path:
    """A copy of the corpus that a test may damage."""
    return Path(shutil.copytree(tones, tmp_path / "corpus"))


@pytest.fixture
def before_step(monkeypatch):
    """`before_step(number, do)` calls `do` after `number` steps of the next run."""
    step = Trainer.training_step

    def arrange(number, do):
        waiting = [do]

        def training_step(self, *args, **kwargs):
            if waiting and self.state.global_step == number:
                waiting.pop()()
            return step(self, *args, **kwargs)

        monkeypatch.setattr(Trainer, "training_step", training_step)

    return arrange


def record(file: Path, seconds: float) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000))
    soundfile.write(file, samples, 16_000)


def test_recordings_lost_between_the_scan_and_the_first_step(arguments, copy, tmp_path, monkeypatch, caplog):
    """One is deleted, one truncated, one shorter than before: they are left out and counted.

    One is longer than before: only its planned seconds are read.
    """
    missing, cut, shorter, grown = (copy / "train-tones" / file for file in FILES)
    begin, collate, costs = CtcRecognition.begin, CTCCollator.__call__, []

    def harm(self, corpora):
        missing.unlink()
        cut.write_bytes(cut.read_bytes()[:-2000])
        record(shorter, 0.1)
        record(grown, 60.0)
        begin(self, corpora)

    def watch(self, utterances):
        batch = collate(self, utterances)
        costs.append(batch["input_values"].numel() / self.rate)
        return batch

    monkeypatch.setattr(CtcRecognition, "begin", harm)
    monkeypatch.setattr(CTCCollator, "__call__", watch)
    assert main([*arguments, "--source", str(copy), "--max_dropped_share", "0.1"]) == 0
    steps = 8  # of 8 batches; the epoch has 7
    left_out = [message for message in caplog.messages if " left out: " in message]
    assert {message.split()[1] for message in left_out} == {"1-10-0000", "1-10-0001", "1-10-0002"}
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert figures["left_out_utterances"] == len(left_out) >= 3
    assert f"{len(left_out)} utterances were left out because they could no longer be read" in caplog.text
    assert len(costs) >= steps
    assert max(costs) <= 6.0, "max_batch_seconds is 6"


def test_a_run_whose_disk_disappeared_is_resumed(arguments, copy, tmp_path, before_step, capsys):
    """The resumed run has the losses of an undisturbed one."""
    run = [*arguments, "--source", str(copy), "--save_total_limit", "3"]
    assert main([*run, "--output_dir", str(tmp_path / "undisturbed")]) == 0
    before_step(5, lambda: copy.rename(tmp_path / "gone"))
    assert main(run) == 2
    printed = capsys.readouterr().err
    assert "utterances: they could be read when the run began, but no longer" in printed
    assert "resume with --resume_from_checkpoint" in printed
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-4"]
    (tmp_path / "gone").rename(copy)
    assert main([*run, "--resume_from_checkpoint"]) == 0
    assert losses(tmp_path / "out") == losses(tmp_path / "undisturbed")


def test_evaluation_recordings_that_disappear(arguments, copy, tmp_path, before_step, capsys):
    before_step(1, lambda: (copy / "dev-tones/4/10/4-10-0003.flac").unlink())
    assert main([*arguments, "--source", str(copy), "--max_steps", "4"]) == 2
    assert "the evaluation: 1 of its 12 utterances cannot be read any more" in capsys.readouterr().err
    out = ["--output_dir", str(tmp_path / "tolerant")]
    assert main([*arguments, "--source", str(tmp_path / "corpus"), "--max_steps", "4", *out]) == 2
    assert main([*arguments, "--source", str(copy), "--max_steps", "4", *out, "--max_dropped_share", "0.1"]) == 0


@pytest.mark.parametrize("change", ["replaced", "gone", "same"])
def test_a_corpus_that_changes_before_a_run_is_resumed(arguments, copy, tmp_path, before_step, caplog, change):
    run = [*arguments, "--source", str(copy), "--max_steps", "5", "--eval_steps", "4"]
    before_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(run) != 0
    file = copy / "train-tones" / FILES[0]
    if change == "replaced":
        record(file, 1.5)
    elif change == "gone":
        file.unlink()
    caplog.clear()
    assert main([*run, "--resume_from_checkpoint"]) == 0
    details = {"replaced": "(48 utterances of", "gone": "(48 utterances of 0.01 h then, 47 utterances of"}
    warned = [message for message in caplog.messages if "the training corpus has changed since" in message]
    assert len(warned) == (change != "same")
    assert change == "same" or details[change] in warned[0] or "other ids or lengths" in warned[0]


def test_a_run_whose_worker_was_killed_is_resumed(arguments, tmp_path, before_step, capsys):
    run = [
        *arguments,
        "--dataloader_num_workers",
        "2",
        "--max_steps",
        "24",
        "--eval_steps",
        "4",
        "--save_total_limit",
        "9",
    ]
    assert main([*run, "--output_dir", str(tmp_path / "undisturbed")]) == 0
    before_step(9, lambda: os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL))
    assert main(run) == 2
    printed = capsys.readouterr().err
    assert "one of the 2 processes that decode audio: it was ended from outside (" in printed
    assert "lower --dataloader_num_workers" in printed
    for child in multiprocessing.active_children():  # a slow one was terminated, and has to end
        child.join(60)
        assert not child.is_alive()
    kept = max(int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*"))
    assert kept >= 8
    assert main([*run, "--resume_from_checkpoint"]) == 0
    assert losses(tmp_path / "out") == losses(tmp_path / "undisturbed")
