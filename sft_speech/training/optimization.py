"""Learning rates: over the steps of a run and over the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any


def tri_stage(steps: int, warmup_steps: float, hold_share: float, final_scale: float) -> Callable[[float], float]:
    """Return the schedule of wav2vec 2.0 (Baevski et al. 2020, appendix B): linear up, level, exponential down.

    Args:
        steps: optimizer steps of the run.
        warmup_steps: steps of warm-up, or their share of the run when below 1.
        hold_share: share of the run at the peak.
        final_scale: ratio of the last learning rate to the peak; 0 counts as 0.01, since exponential decay never ends.

    Returns:
        A function from the step to the factor on the peak learning rate.
    """
    warmup = round(warmup_steps * steps) if warmup_steps < 1 else int(warmup_steps)
    hold = round(hold_share * steps)
    decay = max(1, steps - warmup - hold)
    final = final_scale or 0.01

    def factor(step: float) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return final ** (min(max(0, step - warmup - hold), decay) / decay)

    return factor


def stretched(schedule: Callable[[float], float], steps: int, run_steps: int) -> Callable[[float], float]:
    """Stretch a schedule for ``steps`` optimizer steps over a run of ``run_steps``."""
    if steps == run_steps:
        return schedule
    return lambda step: schedule(step * steps / run_steps)


def parameter_groups(
    named_parameters: list[tuple[str, Any]],
    depths: Mapping[str, int],
    decayed: Collection[str],
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Group parameters by depth and weight decay, from the head down; the log shows the first group's rate.

    Args:
        named_parameters: the trained parameters.
        depths: how far each is below the output, see :func:`~sft_speech.models.parts.depths_of`; each step down
            multiplies the rate by ``layer_decay``.
        decayed: names of the parameters under weight decay.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        depth = depths[name] if layer_decay < 1.0 else 0
        group = groups.setdefault(
            (depth, name in decayed),
            {
                "params": [],
                "lr": learning_rate * layer_decay**depth,
                "weight_decay": weight_decay if name in decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def set_rates(scheduler: Any, rates: list[float]) -> None:
    """Set the peak learning rates of a schedule, whatever step it is at.

    Args:
        scheduler: a :class:`torch.optim.lr_scheduler.LambdaLR`.
        rates: peak of each group of weights.
    """
    scheduler.base_lrs = list(rates)
    for group, rate, factor in zip(scheduler.optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = rate, rate * factor(scheduler.last_epoch)
