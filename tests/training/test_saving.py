"""Modes of the files in checkpoints; that runs resume from them is in tests/end_to_end."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path

import pytest
from transformers import TrainingArguments

from sft_speech.files import honour_umask
from sft_speech.tasks.asr.ctc.loss import CtcCriterion
from sft_speech.training.plan import BatchPlan
from sft_speech.training.trainer import ExactTrainer

spec = importlib.util.spec_from_file_location("one_step", Path(__file__).with_name("one_step.py"))
one_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one_step)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}


def test_every_file_of_a_checkpoint_has_the_mode_that_the_user_wants(tmp_path, umask):
    model = one_step.tiny_model()
    clips = one_step.Clips(model)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, save_steps=1)
    trainer = ExactTrainer(
        model=model,
        args=arguments,
        train_dataset=clips,
        data_collator=clips.collate,
        criterion=CtcCriterion(blank=0),
        plan=BatchPlan(clips.seconds, 100.0, batches=1),
        save_processor=lambda folder: Path(folder, "preprocessor_config.json").write_text("{}"),
    )
    trainer.train()
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "batch_plan.json"} <= names
    assert "training_args.bin" not in names
    assert modes(tmp_path / "checkpoint-1") == {0o666 & ~umask}


def test_shards_too_and_nothing_is_left_behind(tmp_path, umask):
    model = one_step.tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-0000*.safetensors"))) > 1
    names = sorted(path.name for path in tmp_path.iterdir())
    honour_umask(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert modes(tmp_path) == {0o666 & ~umask}
