"""The learning rate of a run, found on a quadratic function whose best rate is known, and on a small recognizer."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
import toy_task

from sft_speech.cli import main
from sft_speech.tasks import TASKS
from sft_speech.tools import find_lr
from sft_speech.training.loss import LossOutput


class Distance(toy_task.Criterion):
    """The squared distance between the bias and a constant."""

    def __init__(self, goal):
        self.goal = goal

    def loss(self, model, batch):
        error = (model.head.bias - self.goal).expand(len(batch["loudness"])) + 0.0 * model(batch["bands"])
        return LossOutput(error.square().sum(), {"error": error.abs().sum(), "seconds": batch["seconds"]})


class Quadratic(toy_task.Toy):
    """A model that begins at a distance of `tolerance` from its optimum."""

    def load(self, rows):
        super().load(rows)
        torch.nn.init.zeros_(self.model.head.bias)
        self.criterion = Distance(self.config.tolerance)


SPEC = dataclasses.replace(toy_task.SPEC, name="quadratic", build=Quadratic)


@pytest.fixture
def command(tmp_path, monkeypatch) -> list[str]:
    """The command line of a range test on noise of 0.5 to 1 s."""
    monkeypatch.setitem(TASKS, "quadratic", __name__)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.normal(size=int(rng.integers(8000, 16000))), 16000)
        lines.append(json.dumps({"audio": f"{number}.wav", "text": "noise"}) + "\n")
    (tmp_path / "noise.jsonl").write_text("".join(lines))
    keys = {"task": "quadratic", "model": "none", "source": tmp_path / "noise.jsonl", "max_batch_seconds": 4}
    keys |= {"dataloader_num_workers": 0, "output": tmp_path / "found"}
    return ["find-lr", *(f"--{key}={value}" for key, value in keys.items())]


@pytest.mark.parametrize("distance", [1.0, 0.01])
def test_the_rate_fits_the_distance_to_the_optimum(command, tmp_path, capsys, distance):
    assert main([*command, f"--tolerance={distance}"]) == 0
    found = json.loads((tmp_path / "found/find_lr.json").read_text())
    # AdamW moves by the rate. Rates that grow by a factor r sum up to rate / (1 - 1 / r), so the loss falls fastest at
    # half of distance * (1 - 1 / r), r = 10 ** (7 / 99).
    assert found["fastest"] == pytest.approx(0.075 * distance, rel=0.3)
    assert found["rises"] == pytest.approx(0.3 * distance, rel=0.4)
    assert found["fastest"] < found["high"] == pytest.approx(0.15 * distance, rel=0.4)
    assert found["low"] == found["high"] / 10
    assert found["words"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--low=1", "--high=0.1"], "--low 1 --high 0.1: the rate must grow from above 0"),
        (["--low=0"], "the rate must grow"),
        (["--updates=5"], "--updates 5: a curve needs at least 20 points"),
        (["--task=tts", "--freeze_encoder_steps=5"], "--freeze_encoder_steps: the task tts has no such option"),
        (["--config=missing.yaml"], "it cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, capsys):
    assert main(["find-lr", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_task_is_that_of_the_folder_of_presets():
    assert find_lr.task_of_file("configs/classification/convnet.yaml") == "classification"
    assert find_lr.task_of_file("mine/run.yaml") == find_lr.task_of_file(None) == "asr"
