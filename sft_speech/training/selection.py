"""The figures of the evaluation splits that select the best checkpoint: one split, or one of each source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sft_speech.options.config import FinetuneConfig
from sft_speech.options.mixing import EVAL, eval_places
from sft_speech.training.rows import Rows
from sft_speech.training.task import Task


def evaluated(config: FinetuneConfig) -> list[str]:
    """Return the roles that are evaluated during training."""
    return list(dict.fromkeys([*config.selecting, *eval_places(config)]))


def evaluator(
    config: FinetuneConfig, task: Task[Any], corpora: Mapping[str, Rows]
) -> Callable[[], dict[str, float]] | None:
    """Return the function that evaluates during training; None if there is no split for it."""
    roles = evaluated(config)
    if not roles:
        return None
    return lambda: figures_of(config, {role: task.evaluate(corpora[role].table).metrics() for role in roles})


def figures_of(config: FinetuneConfig, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of the evaluated roles by name, without ``eval_``: ``wer``, ``digits_wer``, ...

    Without ``eval_split``, those that select the checkpoint are means over the sources: each counts the same, however
    many utterances it has. A figure that is not finite for one of them has no mean.

    Args:
        metrics: of each role; roles that are not evaluated during training are left out.
    """
    figures: dict[str, float] = {}
    selecting = [metrics[role] for role in config.selecting if role in metrics]
    for name in selecting[0] if len(selecting) == len(config.selecting) > 0 else ():
        values = [one[name] for one in selecting if name in one]
        if len(values) == len(selecting):
            figures[name] = sum(values) / len(values)
    for role in eval_places(config):
        if role in metrics:
            figures |= {f"{role.removeprefix(EVAL)}_{name}": value for name, value in metrics[role].items()}
    return figures
