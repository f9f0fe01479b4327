"""Steps whose gradient is not finite: the run skips them, or ends with its last good checkpoint."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from sft_speech.cli import main
from sft_speech.training.nonfinite_steps import NonfiniteSteps
from sft_speech.training.trainer import ExactTrainer

BAD = 5  # the bad step, after the checkpoint of step 4


def history(output: Path) -> list[dict[str, float]]:
    state = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


def spoil(monkeypatch, where: str) -> None:
    """Make the loss of one step NaN, or one value of its gradient infinite while the loss is finite."""
    train, compute = Trainer.training_step, ExactTrainer.compute_loss

    def training_step(self, model, *args, **kwargs):
        loss = train(self, model, *args, **kwargs)
        if where == "gradient" and self.state.global_step == BAD - 1:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf
        return loss

    def compute_loss(self, *args, **kwargs):
        bad = where == "loss" and self.state.global_step == BAD - 1
        return compute(self, *args, **kwargs) * (math.nan if bad else 1.0)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    monkeypatch.setattr(ExactTrainer, "compute_loss", compute_loss)


@pytest.fixture
def around_the_optimizer(monkeypatch):
    """For each step: whether weights and optimizer state stayed the same, and whether they are finite."""
    found, guard = {}, NonfiniteSteps.guard

    def everything(trainer):
        states = trainer.optimizer.state.values()
        moments = [one for state in states for one in state.values()]
        numbers = [*trainer.model.parameters(), *(one for one in moments if one is not None)]
        return [torch.as_tensor(one).detach().clone() for one in numbers]

    def before(self, norm):
        trainer = self.trainer
        was, number, zero_grad = everything(trainer), trainer.state.global_step + 1, trainer.model.zero_grad

        def after(*args, **kwargs):
            now = everything(trainer)
            same = len(was) == len(now) and all(torch.equal(one, other) for one, other in zip(was, now, strict=True))
            found[number] = same, all(torch.isfinite(one).all() for one in now)
            trainer.model.zero_grad = zero_grad
            return zero_grad(*args, **kwargs)

        trainer.model.zero_grad = after
        guard(self, norm)

    monkeypatch.setattr(NonfiniteSteps, "guard", before)
    return found


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_one_bad_step_is_skipped_and_reported(arguments, tmp_path, monkeypatch, around_the_optimizer, caplog, where):
    spoil(monkeypatch, where)
    run = [*arguments, "--save_total_limit", "3", "--gradient_accumulation_steps", "2"]
    assert main(run) == 0
    assert around_the_optimizer == {step: (step == BAD, True) for step in range(1, 9)}
    (entry,) = map(json.loads, (tmp_path / "out" / "bad_batches.jsonl").read_text().splitlines())
    assert entry["step"] == BAD
    assert entry["learning_rate"] == pytest.approx(1e-3)
    assert [math.isfinite(batch["loss"]) for batch in entry["batches"]] == [where == "gradient"] * 2
    for batch in entry["batches"]:
        rows, samples = batch["shapes"]["input_values"]
        assert len(set(batch["ids"])) == rows
        assert batch["seconds"] <= rows * samples / 16_000 <= 6
    assert f"step {BAD} is skipped, its gradient is not finite" in caplog.text
    assert entry["batches"][0]["ids"][0] in caplog.text
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["skipped_steps"] == 1
    assert math.isfinite(results["train_loss"])
    assert [line["step"] for line in history(tmp_path / "out") if "skipped_steps" in line] == [BAD]
    # Resumed before it, the run skips the same step and ends with the same weights.
    other = [
        "--resume_from_checkpoint",
        str(tmp_path / "out" / "checkpoint-4"),
        "--output_dir",
        str(tmp_path / "again"),
    ]
    assert main([*run, *other]) == 0
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(weights, again[name]) for name, weights in whole.items())


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_optimizers_without_fused_kernels_skip_the_step_too(
    arguments, tmp_path, monkeypatch, around_the_optimizer, optim
):
    spoil(monkeypatch, "gradient")
    assert main([*arguments, "--optim", optim]) == 0
    assert around_the_optimizer == {step: (step == BAD, True) for step in range(1, 9)}
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["skipped_steps"] == 1


def test_a_checkpoint_with_a_broken_weight(arguments, small, tmp_path, capsys):
    broken = shutil.copytree(small, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"][3, 0] = math.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert main([*arguments, "--model", str(broken), "--max_nonfinite_steps", "2"]) == 2
    printed = capsys.readouterr().err
    assert "3 of the last 3 steps had a gradient that is not finite, because lm_head.weight holds NaN" in printed
    assert len((tmp_path / "out" / "bad_batches.jsonl").read_text().splitlines()) == 3
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_weights_that_overflow_are_not_saved(arguments, tmp_path, capsys):
    """The gradients are finite; an enormous learning rate makes the weights infinite."""
    run = [*arguments, "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "0", "--save_total_limit", "3"]
    assert main([*run, "--max_steps", "4"]) == 0
    before = (tmp_path / "out" / "checkpoint-4" / "model.safetensors").read_bytes()
    resume = ["--resume_from_checkpoint", "--learning_rate", "1e39"]
    assert main([*run, *resume]) == 2
    assert "holds NaN or infinity after step 8, which is not saved" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]
    assert (tmp_path / "out" / "checkpoint-4" / "model.safetensors").read_bytes() == before


def test_divergence_is_reported(arguments, tmp_path, caplog):
    """At a very high learning rate everything stays finite: the run completes and writes its files."""
    run = [*arguments, "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "0", "--learning_rate", "30"]
    assert main(run) == 0
    (diverges,) = (line for line in caplog.messages if line.startswith("training diverges: loss "))
    assert "lower learning_rate (now 3.00e+01 at its peak)" in diverges
    assert any(line.startswith("training ended worse than it began (loss ") for line in caplog.messages)
    assert not any("usual in the first few hundred steps" in line for line in caplog.messages)
    assert math.isfinite(json.loads((tmp_path / "out" / "all_results.json").read_text())["train_loss"])
    (mode,) = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").glob("*.*") if path.is_file()}
    assert mode == 0o666 & ~umask()


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before
