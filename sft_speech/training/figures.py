"""Figures of a whole run."""

from __future__ import annotations

import logging
import math

from sft_speech.text.counted import counted
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
    if trainer.training_seconds:
        figures["audio_seconds_per_second"] = trainer.audio_seconds / trainer.training_seconds
    return {
        **figures,
        "audio_hours": trainer.plan.hours(state.global_step * accumulation),
        "train_runtime": next(e["train_runtime"] for e in reversed(state.log_history) if "train_runtime" in e),
    }
