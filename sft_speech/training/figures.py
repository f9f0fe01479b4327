"""Figures of a whole run."""

from __future__ import annotations

import logging
import math
import statistics
from typing import Any

from accelerate.utils import gather_object

from sft_speech.text.counted import counted
from sft_speech.training.log_interval import peak_bytes
from sft_speech.training.nonfinite_steps import FILE
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)


def log_counts(figures: dict[str, float]) -> None:
    """Log how many utterances and steps had no effect on the model."""
    messages = {
        "left_out_utterances": "left out because they could no longer be read (see the messages above)",
        "skipped_steps": f"skipped because their gradients were not finite (see {FILE})",
        "zeroed_utterances": "without effect because their transcripts are too long for their audio",
    }
    for name, what in messages.items():
        if name in figures:
            thing = "step" if "steps" in name else "utterance"
            logger.info("%s %s", counted(int(figures[name]), f"{thing} was", f"{thing}s were"), what)


def training_figures(trainer: ExactTrainer) -> dict[str, float]:
    """Return the figures of a run; its time and speed cover only the part since it was last resumed."""
    state, accumulation = trainer.state, trainer.args.gradient_accumulation_steps
    losses = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    steps = [step - before for (step, _), before in zip(losses, [0, *(step for step, _ in losses)], strict=False)]
    numbers = [(loss, n) for (_, loss), n in zip(losses, steps, strict=True) if math.isfinite(loss)]
    counted = ("left_out_utterances", "skipped_steps", "zeroed_utterances")
    counts = {name: sum(entry.get(name, 0) for entry in state.log_history) for name in counted}
    figures = {name: count for name, count in counts.items() if count}
    if numbers:  # none if the run is shorter than its logging interval
        figures["train_loss"] = sum(loss * n for loss, n in numbers) / sum(n for _, n in numbers)
    for name in trainer.by_source.names:
        own = [
            entry[f"loss_{name}"] for entry in state.log_history if math.isfinite(entry.get(f"loss_{name}", math.nan))
        ]
        if own:
            figures[f"train_loss_{name}"] = sum(own) / len(own)
    if trainer.training_seconds:
        figures["audio_seconds_per_second"] = trainer.audio_seconds / trainer.training_seconds
    costs: dict[str, float] = {"updates": state.global_step, "peak_bytes": peak_of_run(trainer)}
    for name in ("seconds_per_update", "cpu_seconds_per_update"):
        if (seconds := seconds_per_update(state.log_history, name)) is not None:
            costs[name] = seconds
    return {
        **figures,
        **costs,
        **parameter_counts(trainer),
        "audio_hours": trainer.plan.hours(state.global_step * accumulation),
        "train_runtime": next(e["train_runtime"] for e in reversed(state.log_history) if "train_runtime" in e),
    }


def seconds_per_update(history: list[dict[str, float]], name: str = "seconds_per_update") -> float | None:
    """Return the seconds of an optimizer step without evaluation, over all starts of a run; None if it was too short.

    It is the median of the log lines, which other load on the machine changes little; without the first one, whose
    steps warm up, unless it is the only one.

    Args:
        name: of the figure in the log.
    """
    lines = [entry[name] for entry in history if name in entry]
    return statistics.median(lines[1:] or lines) if lines else None


def peak_of_run(trainer: ExactTrainer) -> int:
    """Return the peak memory of a process of the run, the largest of all processes and starts; all must call it."""
    logged = [int(entry["peak_bytes"]) for entry in trainer.state.log_history if "peak_bytes" in entry]
    return max(gather_object([max([peak_bytes(), *logged])]))


def parameter_counts(trainer: ExactTrainer) -> dict[str, float]:
    """Return how many parameters the model has, and how many of them are trained."""
    model: Any = trainer.model
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"trained_parameters": sum(n for n, trained in sizes if trained), "parameters": sum(n for n, _ in sizes)}
