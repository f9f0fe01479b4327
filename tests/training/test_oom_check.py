"""The worst batch, run before step 1: it leaves no trace, and says what to lower where memory is short."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.loss import CtcCriterion
from sft_speech.training.oom_check import oom_check
from sft_speech.training.plan import BatchPlan
from sft_speech.training.trainer import ExactTrainer

spec = importlib.util.spec_from_file_location("one_step", Path(__file__).with_name("one_step.py"))
one_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one_step)


class Watched(CtcCriterion):
    """Remembers what it was asked to do, or has no memory for it."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(blank=0)
        self.error, self.sizes, self.checkpointing = error, [], []

    def loss(self, model, batch):
        self.sizes.append(len(batch["labels"]))
        self.checkpointing.append(model.is_activation_checkpointing)
        if self.error is not None:
            raise self.error
        return super().loss(model, batch)


def make_trainer(folder, task, budget=2.0, **arguments) -> ExactTrainer:
    model = one_step.tiny_model(hidden_dropout=0.1)
    clips = one_step.Clips(model)
    return ExactTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, **arguments),
        train_dataset=clips,
        data_collator=clips.collate,
        criterion=task,
        plan=BatchPlan(clips.seconds, budget, batches=1),
    )


def test_it_leaves_no_trace(tmp_path):
    trainer = make_trainer(tmp_path, task := Watched())
    before = {name: weights.clone() for name, weights in trainer.model.state_dict().items()}
    state = torch.get_rng_state()
    oom_check(trainer)
    assert task.sizes == [len(trainer.plan.worst())]
    assert all(torch.equal(weights, before[name]) for name, weights in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_are_recomputed_where_the_run_will(tmp_path, checkpointing):
    trainer = make_trainer(tmp_path, task := Watched(), activation_checkpointing=checkpointing)
    oom_check(trainer)
    assert task.checkpointing == [checkpointing]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_short_memory_is_said_with_advice(tmp_path, error):
    with pytest.raises(UserError, match="does not fit") as said:
        oom_check(make_trainer(tmp_path, Watched(error)))
    assert said.value.do == "lower max_batch_seconds (now 2) to 1 or set gradient_checkpointing"
    with pytest.raises(UserError) as said:
        oom_check(make_trainer(tmp_path, Watched(error), budget=0.1, activation_checkpointing=True))
    assert said.value.do.startswith("lower max_seconds below ")


@pytest.mark.parametrize(("accumulation", "copies"), [(1, 2), (4, 3)])
def test_memory_is_reserved_for_the_optimizer_and_for_accumulated_gradients(
    tmp_path, monkeypatch, accumulation, copies
):
    reserved = []
    monkeypatch.setattr(torch, "empty_like", lambda one: reserved.append(one.shape))
    trainer = make_trainer(tmp_path, Watched(), gradient_accumulation_steps=accumulation)
    oom_check(trainer)
    assert len(reserved) == copies * len([*trainer.model.parameters()])


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"):
        oom_check(make_trainer(tmp_path, Watched(RuntimeError("shapes differ"))))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_memory_that_runs_short_later_is_said_too(tmp_path, error):
    with pytest.raises(UserError) as said:
        make_trainer(tmp_path, Watched(error), max_steps=1).train()
    assert str(said.value).startswith("a batch of step 1")
    assert "lower max_batch_seconds (now 2)" in said.value.do
