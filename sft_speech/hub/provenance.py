"""Command, preset, versions and hardware of a run, in OUT/provenance.json, which is never uploaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.options.config import FinetuneConfig
from sft_speech.redact import redact

if TYPE_CHECKING:
    import torch

FILE = "provenance.json"
STACK = ("sft_speech", "transformers", "torch", "datasets", "accelerate", "huggingface_hub")


def record(config: FinetuneConfig, output: Path, resumed: Path | None, device: torch.device, processes: int) -> None:
    """Add this start of the run to the earlier ones: a resumed run has several.

    Args:
        resumed: checkpoint from which the run resumes.
        device: device of this process; the others use the same kind.
    """
    starts = [*read(output), about_this_start(config, resumed, device, processes)]
    text = json.dumps({"starts": starts}, ensure_ascii=False, indent=1)
    (output / FILE).write_text(redact(text) + "\n", encoding="utf-8")


def read(output: Path) -> list[dict[str, Any]]:
    """Return the starts of a run; [] if they were not recorded."""
    try:
        return list(json.loads((output / FILE).read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError):
        return []


def about_this_start(
    config: FinetuneConfig, resumed: Path | None, device: torch.device, processes: int
) -> dict[str, Any]:
    """Return what is needed to repeat the run."""
    import psutil
    import torch

    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type.upper()}"
    )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "from": resumed.name if resumed else None,
        "command": list(config.command_line),
        "preset": Path(config.preset).name if config.preset else None,
        "on_disk": [key for key, value in values.items() if is_on_disk(value)]
        + [f"sources.{number}" for number, one in enumerate(config.sources) if is_on_disk(one["source"])],
        "device": name,
        "processes": processes,
        "max_batch_seconds": config.batch_seconds,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in STACK},
    }


def machine(start: Mapping[str, Any]) -> tuple[str, str]:
    """Return the hardware and the versions of a start, as text."""
    cuda = f", CUDA {start['cuda']}" if start["cuda"] else ""
    versions = ", ".join(f"{package} {version}" for package, version in start["versions"].items())
    hardware = f"{start['processes']} x {start['device']}; {start['cores']} cores, {start['memory_gb']} GB of memory"
    return hardware, f"Python {start['python']}{cuda}, {versions}"


def is_on_disk(value: Any) -> bool:
    """Return whether a value is a path that exists, or a list of tables one of which has such a source."""
    if isinstance(value, list):
        return any(is_on_disk(one.get("source")) for one in value if isinstance(one, dict))
    return isinstance(value, str) and os.path.exists(value)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "(source)"
