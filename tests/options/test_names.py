"""Renamed options, and the options of the Hugging Face trainer that are not here."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from sft_speech.errors import UserError
from sft_speech.options.names import INSTEAD, RENAMED, advice, current
from sft_speech.options.settings import load_config
from sft_speech.tasks.asr.config import FinetuneAsrConfig

NEEDED = {"model": "m", "source": "s", "output_dir": "o"}
OPTIONS = {field.name for field in dataclasses.fields(FinetuneAsrConfig)}


def test_every_argument_of_the_trainer_is_an_option_or_answered():
    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert len(names) > 100
    assert names - OPTIONS - INSTEAD.keys() - RENAMED.keys() == set()
    assert not (OPTIONS & (INSTEAD.keys() | RENAMED.keys()))


def test_answers_name_options_that_exist():
    words = {word.strip(",;.") for hint in INSTEAD.values() if hint.startswith("set ") for word in hint.split()}
    named = {word for word in words if "_" in word and word.islower()}
    assert named - OPTIONS == set()
    assert {"max_batch_seconds", "eval_steps", "hub_private"} <= named


@pytest.mark.parametrize(
    ("key", "do"),
    [
        ("per_device_train_batch_size", "set max_batch_seconds, the padded seconds of audio per batch and process"),
        ("fp16", "set bf16, for GPUs that have it; fp16 is not supported"),
        ("evaluation_strategy", "set eval_steps; checkpoints are saved and evaluated at the same steps"),
        ("learning-rate", "did you mean learning_rate?"),
        ("qqq", "--help lists the options"),
    ],
)
def test_an_unknown_key_of_a_yaml_is_answered(key, do, tmp_path):
    (tmp_path / "run.yaml").write_text(f"model: m\nsource: s\noutput_dir: o\n{key}: 1\n")
    with pytest.raises(UserError, match=f"unknown key '{key}'") as error:
        load_config(FinetuneAsrConfig, str(tmp_path / "run.yaml"), {})
    assert error.value.do == do


def test_only_where_one_trains_are_trainer_arguments_explained():
    assert advice("fp16", ["beam_size", "lm"]) == "--help lists the options"
    assert advice("warmup_ratio", ["learning_rate"]).startswith("set warmup_steps")


def test_old_names_and_values_of_a_yaml_work_with_a_warning(tmp_path, caplog):
    old = "rehearse: false\nmax_bad_steps: 3\nactivation_checkpointing: true\nlr_scheduler_type: three_stage\n"
    (tmp_path / "run.yaml").write_text("model: m\nsource: s\noutput_dir: o\n" + old)
    config = load_config(FinetuneAsrConfig, str(tmp_path / "run.yaml"), {"max_bad_steps": 5})
    assert (config.oom_check, config.max_nonfinite_steps, config.gradient_checkpointing) == (False, 5, True)
    assert config.lr_scheduler_type == "tri_stage"
    lines = [message.partition("run.yaml: ")[2] for message in caplog.messages[:4]]
    assert lines[0] == "rehearse is now oom_check; the old name works until the next release"
    assert lines[3] == "lr_scheduler_type: three_stage is now tri_stage; the old name works until the next release"
    assert caplog.messages[4].startswith("options: max_bad_steps is now max_nonfinite_steps")
    assert len(caplog.messages) == 5


@pytest.mark.parametrize("order", [("rehearse", "oom_check"), ("oom_check", "rehearse")])
def test_an_option_under_both_of_its_names_is_an_error(order):
    with pytest.raises(UserError, match="settings: oom_check: it is set under two names") as error:
        current(dict.fromkeys(order, True))
    assert error.value.do == "remove rehearse"


def test_files_of_finished_runs_are_read_silently(caplog):
    caplog.set_level(logging.DEBUG)
    old = {"rehearse": True, "lr_scheduler_type": "three_stage", "seed": 1}
    assert current(old) == {"oom_check": True, "lr_scheduler_type": "tri_stage", "seed": 1}
    assert not caplog.messages


def test_old_names_lead_to_options_that_exist():
    assert set(RENAMED.values()) <= OPTIONS
    assert load_config(FinetuneAsrConfig, None, NEEDED | dict.fromkeys(RENAMED, True) | {"max_bad_steps": 1})
