"""Range tests of a small recognizer: what is written and what is left alone; two processes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sft_speech.cli import main

ROOT = Path(__file__).parents[2]


def test_the_base_and_the_output_of_the_run_are_not_touched(tones, small, tmp_path, capsys):
    before = {path: path.read_bytes() for path in small.iterdir()}
    config = tmp_path / "run.yaml"
    keys = {"model": str(small), "source": str(tones), "train_split": "train-tones", "eval_split": "dev-tones"}
    keys |= {"output_dir": str(tmp_path / "out"), "max_batch_seconds": 6, "dataloader_num_workers": 0}
    keys |= {"update_seconds": 12, "mask_time_length": 2, "hidden_dropout": 0.1, "freeze_encoder_steps": 5}
    config.write_text(json.dumps(keys))
    assert main(["find-lr", f"--config={config}", "--updates=30", "--low=1e-5"]) == 0
    assert {path: path.read_bytes() for path in small.iterdir()} == before
    assert not (tmp_path / "out").exists()
    found = tmp_path / "out-find-lr"
    assert {path.name for path in found.iterdir()} == {"find_lr.png", "find_lr.csv", "find_lr.json"}
    assert (found / "find_lr.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((found / "find_lr.json").read_text())
    assert (figures["task"], figures["loss_unit"], figures["flat"]) == ("asr", "nats per label", False)
    assert 1e-4 < figures["suggested"] < 3e-2
    lines = (found / "find_lr.csv").read_text().splitlines()
    assert lines[0] == "learning_rate,loss,smoothed_loss"
    assert len(lines) == 1 + figures["updates"]
    assert str(found / "find_lr.png") in capsys.readouterr().out


def test_two_processes_find_about_the_same_rate(tones, small, tmp_path, two_processes):
    keys = {"model": small, "source": tones, "train_split": "train-tones", "output": tmp_path / "found"}
    keys |= {"max_batch_seconds": "auto", "update_seconds": 12, "dataloader_num_workers": 0, "mask_time_length": 2}
    keys |= {"updates": 20, "low": 1e-4}
    options = [f"--{key}={value}" for key, value in keys.items()]
    two_processes(str(ROOT / "scripts/find_lr.py"), *options)
    two = json.loads((tmp_path / "found/find_lr.json").read_text())
    assert main(["find-lr", *options]) == 0
    one = json.loads((tmp_path / "found/find_lr.json").read_text())
    assert two["fastest"] == pytest.approx(one["fastest"], rel=1.0)
    assert two["start_loss"] == pytest.approx(one["start_loss"], rel=0.2)


def test_a_streamed_corpus_and_the_largest_batch_that_fits(tones, small, tmp_path, caplog):
    keys = {"model": small, "source": tones, "train_split": "train-tones", "output": tmp_path / "found"}
    keys |= {"streaming": "true", "max_steps": 9, "max_batch_seconds": "auto", "update_seconds": 8, "max_seconds": 2}
    keys |= {"dataloader_num_workers": 0, "mask_time_length": 2, "updates": 20, "low": 1e-4}
    with caplog.at_level(logging.INFO):
        assert main(["find-lr", *(f"--{key}={value}" for key, value in keys.items())]) == 0
    assert "max_batch_seconds auto: batches of 8 s" in caplog.text
    assert "update_seconds needs no more" in caplog.text
    assert json.loads((tmp_path / "found/find_lr.json").read_text())["updates"] > 10
