"""What changes and what is watched while a model is pre-trained: the quantizer's temperature, and its collapse."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback

from sft_speech.tasks.pretraining.loss import PretrainingCriterion

logger = logging.getLogger(__name__)


class GumbelTemperature(TrainerCallback):
    """Sets the quantizer's temperature: from ``start`` geometrically to ``end``.

    It is a function of the step alone, so that a resumed run has the same. Published (Baevski et al. 2020, appendix B):
    2 times 0.999995 for each of 400,000 updates, at least 0.5, which it reaches at 69 % of the run.

    Args:
        criterion: the criterion of the run.
        share: share of the run after which it is ``end``.
    """

    def __init__(self, criterion: PretrainingCriterion, start: float, end: float, share: float) -> None:
        self.criterion, self.start, self.end, self.share = criterion, start, end, share

    def at(self, step: int, steps: int) -> float:
        """Return the temperature of step ``step``, counted from 0, of a run of ``steps``."""
        done = min(1.0, step / (self.share * steps)) if self.share else 1.0
        return float(self.start * (self.end / self.start) ** done)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.criterion.gumbel_temperature = self.at(state.global_step, state.max_steps)


class Collapse(TrainerCallback):
    """Warns once when the quantizer uses only a few codes: targets are then alike, and there is nothing to learn.

    That is so when most negatives have the codes of their target, or when each group uses on average less than
    :data:`FEW` codes, for :data:`LINES` lines of the log in a row.

    Args:
        groups: groups of the codebook.
    """

    LINES, FEW, SAME = 3, 2.0, 0.5

    def __init__(self, groups: int) -> None:
        self.groups, self.lines, self.warned = groups, 0, False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "code_perplexity" not in (logs or {}) or self.warned or not state.is_world_process_zero:
            return
        collapsed = logs["code_perplexity"] < self.FEW * self.groups or logs["same_negatives"] > self.SAME
        self.lines = self.lines + 1 if collapsed else 0
        if self.lines < self.LINES:
            return
        self.warned = True
        logger.warning(
            "the codebook has collapsed at step %d: its groups use %.1f codes each, and %.0f %% of the negatives have "
            "the codes of their target (accuracy %.0f %% means nothing then). Stop the run, and start it with a "
            "lower learning_rate (now %.2e at its peak), a longer warm-up (warmup_steps), or a larger "
            "diversity_loss_weight",
            *(state.global_step, logs["code_perplexity"] / self.groups, 100 * logs["same_negatives"]),
            *(100 * logs["accuracy"], args.learning_rate),
        )
