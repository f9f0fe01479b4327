"""What came out of each candidate of a comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sft_speech.options.spec import Metric


@dataclass(frozen=True)
class Outcome:
    """A candidate and what came out of it."""

    name: str
    settings: dict[str, Any]
    folder: Path
    status: Literal["finished", "dropped", "failed"]
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)
    trained_parameters: int = 0
    parameters: int = 0
    bytes: int = 0
    peak_bytes: int | None = None
    updates: int = 0
    seconds_per_update: float | None = None
    audio_seconds_per_second: float | None = None


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run; {} if there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Comparison:
    """All candidates of a comparison."""

    task: str
    outcomes: list[Outcome]
    metric: Metric
    splits: dict[str, str]
    base: dict[str, Any] = field(default_factory=dict)
    command: str = ""
