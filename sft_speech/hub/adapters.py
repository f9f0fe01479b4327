"""The LoRA adapter of a run on the Hub: beside the merged model, or in a repository of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.options.spec import TaskSpec

FOLDER, CONFIG = "adapter", "adapter_config.json"


def check_adapter(folder: Path) -> None:
    """Raise UserError if the output directory of a run has no adapter."""
    if not (folder / FOLDER / CONFIG).is_file():
        raise UserError(str(folder), "it has no adapter: the run did not use LoRA", "leave --adapter_only out")


def about(folder: Path, alone: bool) -> list[str]:
    """Return a line for the card on the adapter of a run; none if it has none.

    Args:
        alone: whether the repository holds only the adapter.
    """
    file = folder / FOLDER / CONFIG
    if not file.is_file():
        return []
    lora = json.loads(file.read_text(encoding="utf-8"))
    kind = "DoRA" if lora.get("use_dora") else "rsLoRA" if lora.get("use_rslora") else "LoRA"
    whole = f", and {', '.join(lora['modules_to_save'])} trained fully" if lora.get("modules_to_save") else ""
    where = (
        "This repository holds only the adapter."
        if alone
        else "The weights here are merged; the adapter alone is in `adapter/`."
    )
    return [f"Trained with {kind} of rank {lora['r']}, alpha {lora['lora_alpha']:g}{whole}. {where}\n"]


def alone(spec: TaskSpec, folder: Path, base: str, shown: str) -> TaskSpec:
    """Return the description of a task for the card of an adapter in its own repository.

    Args:
        base: the base that the adapter names.
        shown: its public name.
    """
    card = public((folder / FOLDER / "README.md").read_text(encoding="utf-8"), base, shown)
    usage = card.partition("```python\n")[2].partition("\n```")[0]
    lines = ["ADAPTER = NAME" if line.startswith("ADAPTER = ") else line for line in usage.splitlines()]
    return dataclasses.replace(
        spec, card=dataclasses.replace(spec.card, usage="\n".join(lines), library="peft", relation="adapter")
    )


def public(text: str, base: str, shown: str) -> str:
    """Replace the base of an adapter by its public name in one of its files."""
    return text.replace(json.dumps(base), json.dumps(shown)).replace(f" {base}", f" {shown}")
