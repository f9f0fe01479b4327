"""Runs that follow each other in one Python process: nothing of one is left for the next."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any

import datasets
import huggingface_hub.utils
import pytest
import torch
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from sft_speech import finetune

OPTIONS = {"max_steps": 4, "eval_steps": 2, "max_batch_seconds": 6.0, "learning_rate": 1e-2, "mask_time_length": 2}
PLAIN = {"report_to": "none", "dataloader_num_workers": 0}
EVERYTHING = {
    "bf16": True,
    "gradient_checkpointing": True,
    "lora_rank": 4,
    "unfreeze_every_steps": 1,
    "interpolate": "auto",
    "layerdrop": 0.3,
    "update_seconds": 12.0,
    "report_to": "tensorboard",
    "dataloader_num_workers": 1,
}


class Fails(TrainerCallback):
    """Fails after the third step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise ZeroDivisionError


def settings() -> dict[str, Any]:
    """Return what a process has only once, and a run may set."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return {
        "environment": dict(os.environ),
        "levels": {one.name: one.level for one in loggers if isinstance(one, logging.Logger) and one.level},
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)},
        "warnings": list(warnings.filters),
        "hook": sys.excepthook,
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "checks": (torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled()),
        "verbosity": transformers_logging.get_verbosity(),
        "bars": (
            transformers_logging.is_progress_bar_enabled(),
            datasets.are_progress_bars_disabled(),
            huggingface_hub.utils.are_progress_bars_disabled(),
        ),
        "caching": datasets.is_caching_enabled(),
    }


def methods() -> dict[str, Any]:
    """Return the functions of all modules and classes that a run may have replaced."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in ("transformers", "torch", "peft", "accelerate", "datasets", "sft_speech"):
            continue
        for key, value in list(vars(module).items()):
            if type(value) is FunctionType:
                found[f"{name}.{key}"] = value
            elif issubclass(type(value), type) and value.__module__ == name:
                own = {attribute: one for attribute, one in vars(value).items() if inspect.isroutine(one)}
                found |= {f"{name}.{key}.{attribute}": one for attribute, one in own.items()}
    return found


@pytest.mark.parametrize("bars", [True, False])
def test_a_run_leaves_nothing_whether_it_succeeds_or_fails(tones, small, tmp_path, bars):
    def run(name: str, options: dict[str, Any], *callbacks: TrainerCallback) -> bytes:
        corpus = {"source": str(tones), "train_split": "train-tones", "eval_split": "dev-tones"}
        finetune(str(small), output_dir=tmp_path / name, callbacks=callbacks, **corpus, **OPTIONS, **options)
        return Path(tmp_path, name, "model.safetensors").read_bytes()

    if bars:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()
    try:
        before = settings()
        alone = run("alone", PLAIN)
        assert settings() == before
        own = methods()
        run("everything", EVERYTHING)
        assert settings() == before
        with pytest.raises(ZeroDivisionError):
            run("failed", EVERYTHING, Fails())
        assert settings() == before
        after = methods()
        assert [name for name, one in own.items() if after.get(name) is not one] == []
        assert run("again", PLAIN) == alone
    finally:
        transformers_logging.enable_progress_bar()
