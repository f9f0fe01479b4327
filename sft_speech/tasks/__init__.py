"""The tasks: a folder for each, described by one :class:`~sft_speech.options.spec.TaskSpec`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.options.spec import TaskSpec

# A new task is a folder and a line here: its name, and the module that holds its SPEC.
TASKS: dict[str, str] = {
    "asr": "sft_speech.tasks.asr.spec",
    "classification": "sft_speech.tasks.classification.spec",
    "pretraining": "sft_speech.tasks.pretraining.spec",
    "tts": "sft_speech.tasks.tts.spec",
    "vc": "sft_speech.tasks.vc.spec",
}


def spec_of(name: str) -> TaskSpec:
    """Return the description of a task.

    Raises:
        UserError: there is no such task.
    """
    if name not in TASKS:
        raise UserError(f"task {name}", "there is no such task", f"choose one of {', '.join(TASKS)}")
    spec: TaskSpec = importlib.import_module(TASKS[name]).SPEC
    return spec


def specs() -> list[TaskSpec]:
    """Return the descriptions of all tasks."""
    return [spec_of(name) for name in TASKS]


def task_of(model: str | Path) -> TaskSpec:
    """Return the task of a saved model, by its ``config.json``.

    Args:
        model: its directory, or its id on the Hub.

    Raises:
        UserError: there is no such model, or it does not belong to any of these tasks.
    """
    content = _config_of(str(model))
    found = next((spec for spec in specs() if spec.recognizes(content)), None)
    if found is None:
        names = ", ".join(content.get("architectures") or []) or "an unnamed architecture"
        raise UserError(str(model), f"no task here supports {names}", "take a model that sft_speech has fine-tuned")
    return found


def _config_of(model: str) -> Mapping[str, Any]:
    if Path(model).is_dir():
        try:
            content = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = f"its config.json cannot be read ({error})"
            raise UserError(model, why, "give the directory of a model") from None
        return content if isinstance(content, dict) else {}
    from transformers import PreTrainedConfig

    from sft_speech.models.load import check_folder, not_found

    check_folder(model)
    try:
        content, _ = PreTrainedConfig.get_config_dict(model)
    except (OSError, ValueError) as error:
        raise not_found(model, error) from None
    return content
