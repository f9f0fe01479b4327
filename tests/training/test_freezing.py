"""Which weights move in which step, with which state of the optimizer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_lora import adapted, randomize
from transformers import TrainerCallback, TrainingArguments

from sft_speech.models.adapt import head_names
from sft_speech.models.parts import Parts, train_only
from sft_speech.models.unfreezing import Unfreezing, starts_of
from sft_speech.training.trainer import ExactTrainer

spec = importlib.util.spec_from_file_location("one_step", Path(__file__).with_name("one_step.py"))
one_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one_step)


class Steps(one_step.Split):
    """The same 16 clips in two batches, in each of several steps."""

    def __init__(self, seconds, steps: int) -> None:
        super().__init__(seconds, 8, 2, uneven=False)
        self.own = self.own * steps
        self.batches = len(self.own)


class Watch(TrainerCallback):
    """Notes which weights moved in each step, and which have a state of the optimizer."""

    def __init__(self, model) -> None:
        self.model, self.moved, self.stated = model, [], []

    def copy(self):
        return {name: one.detach().clone() for name, one in self.model.named_parameters()}

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = self.copy()

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.moved.append({name for name, one in self.copy().items() if not torch.equal(one, self.before[name])})
        names = {id(one): name for name, one in self.model.named_parameters()}
        self.stated.append({names[id(one)]: float(found["step"]) for one, found in optimizer.state.items()})


def run(folder, kind: str, steps: int, prepare, **changes):
    model, clips, criterion = one_step.parts(kind, **changes)
    unfreezing = prepare(model)
    watch = Watch(model)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, gradient_accumulation_steps=2, logging_steps=1, max_grad_norm=0.1,
        learning_rate=1e-3, weight_decay=0.1, report_to=[], save_strategy="no", remove_unused_columns=False,
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = ExactTrainer(
        model=model, args=arguments, train_dataset=clips, data_collator=clips.collate, criterion=criterion,
        plan=Steps(clips.seconds, steps), unfreezing=unfreezing, callbacks=[watch],
    )  # fmt: skip
    trainer.train()
    return model, watch, [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]


STILL = {"wav2vec2.masked_spec_embed"}  # nothing is masked


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_one_part_more_moves_every_other_step(tmp_path, kind, lora):
    starts = {}

    def prepare(model):
        if lora:
            randomize(adapted(model, head_names(model) if kind == "ctc" else ()))
        starts.update(starts_of(model, 0, 2))
        return Unfreezing(model, starts)

    prepare(one_step.parts(kind)[0])
    steps = max(starts.values()) + 2
    model, watch, _ = run(tmp_path, kind, steps, prepare)
    assert any(".lora_" in name for name in starts) == lora
    trainable = {name for name, one in model.named_parameters() if one.requires_grad} - STILL
    for step in range(steps):
        expected = {name for name in trainable if starts.get(name, 0) <= step}
        assert watch.moved[step] == expected, step
        assert watch.stated[step].keys() - STILL == expected, step
        assert all(watch.stated[step][name] == step + 1 - starts.get(name, 0) for name in expected)
    assert watch.moved[0] < watch.moved[2] < watch.moved[-1] == trainable


def test_gradients_are_clipped_as_if_there_were_only_what_is_trained(tmp_path):
    _, late, norms = run(tmp_path, "ctc", 2, lambda model: Unfreezing(model, starts_of(model, 0, 2)))
    _, only, alone = run(tmp_path, "ctc", 2, lambda model: train_only(model, ["head"]) and None)
    assert norms == alone
    assert late.moved == only.moved
    assert all(norm > 0.1 for norm in norms), "they are clipped"


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("ctc", ["head"]),
        ("ctc", ["head", "encoder.layers.1-"]),
        ("ctc", ["norms", "biases"]),
        ("ctc", ["encoder.layers.top1.attention"]),
        ("whisper", ["decoder.layers.top1", "encoder.norms"]),
        ("whisper", ["not embeddings"]),
    ],
)
def test_exactly_what_is_chosen_moves(tmp_path, kind, parts):
    model, watch, _ = run(tmp_path, kind, 2, lambda model: train_only(model, parts) and None)
    chosen = Parts(model).chosen(parts) - STILL
    fixed = {"model.encoder.embed_positions.weight"}
    assert watch.moved == [chosen - fixed] * 2
    assert chosen


def test_a_step_in_which_layer_drop_skips_all_that_is_trained_does_nothing(tmp_path):
    model, watch, norms = run(
        tmp_path, "ctc", 2, lambda model: train_only(model, ["encoder.layers"]) and None, layerdrop=1.0
    )
    assert norms == [0.0, 0.0]
    assert not head_names(model) & watch.moved[0]
