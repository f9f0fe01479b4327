"""What came out of each candidate of a comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sft_speech.options.spec import Metric


@dataclass(frozen=True)
class Outcome:
    """A candidate and what came out of it.

    Args:
        architecture: the same for models of the same shape; "" if it is not known.
        seconds_per_update: by the clock.
        cpu_seconds_per_update: of its process on all processors; None if it was not trained on the CPU.
        audio_seconds_per_second: that it evaluated, by the clock.
        audio_seconds_per_cpu_second: the same by the time of its process; None if that was not on the CPU.
    """

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
    cpu_seconds_per_update: float | None = None
    audio_seconds_per_cpu_second: float | None = None
    architecture: str = ""


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


def by_processor(finished: Sequence[Outcome]) -> bool:
    """Return whether all were trained on the CPU, so that times of the processor can be compared.

    Other work on the machine changes them little, while it may slow down one run and not the next by the clock.
    """
    return all(one.cpu_seconds_per_update for one in finished)


def timed(finished: Sequence[Outcome]) -> dict[str, tuple[float | None, float | None]]:
    """Return seconds per update and speed of use by name: of the processor if all were trained on the CPU.

    Models of the same architecture are equally fast, so the fastest measurement counts for all of them.
    """
    cpu = by_processor(finished)
    speeds = {one.name: one.audio_seconds_per_cpu_second if cpu else one.audio_seconds_per_second for one in finished}
    kinds = {one.name: one.architecture or one.name for one in finished}
    best = {kind: max(speeds[name] or 0.0 for name in kinds if kinds[name] == kind) for kind in kinds.values()}
    return {
        one.name: (
            one.cpu_seconds_per_update if cpu else one.seconds_per_update,
            best[kinds[one.name]] or None,
        )
        for one in finished
    }
