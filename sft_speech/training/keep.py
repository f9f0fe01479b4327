"""What a model keeps: the splits of ``keep_splits`` before and after training, side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sft_speech.errors import UserError
from sft_speech.metrics.change import Change
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.keep import KEEP
from sft_speech.options.spec import Metric
from sft_speech.training.before import BeforeAndAfter
from sft_speech.training.task import Evaluation, Task

logger = logging.getLogger(__name__)


def check_task(config: FinetuneConfig, task: Task[Any]) -> None:
    """Check that the starting checkpoint has something to forget.

    Raises:
        UserError: ``keep_splits`` is set, and the head is new.
    """
    if config.keep_splits and not task.can_evaluate_at_start():
        why = "the head of the model is new, so there are no figures before training to keep"
        raise UserError("keep_splits", why, "leave keep_splits out, or start from a model that is trained for the task")


def report(
    config: FinetuneConfig, before: BeforeAndAfter, evaluations: Mapping[str, Evaluation], unmixed: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Log a table of ``keep_splits`` before and after training, and warn if one got worse beyond its interval.

    Args:
        evaluations: those of the saved model, by role.
        unmixed: figures of the trained weights without interpolation: ``keep_..._wer``, ...

    Returns:
        The rows of the table, for ``all_results.json``.
    """
    name = before.metric.name
    kept = {role: one for role, one in evaluations.items() if role.startswith(KEEP)}
    rows = [
        row_of(role, one.metrics().get(name), unmixed.get(f"{role}_{name}"), before.change(role, one), name)
        for role, one in kept.items()
    ]
    if not rows:
        return []
    logger.info("%s", table(rows, before.metric))
    if worse := [row["split"] for row in rows if row["worse"]]:
        logger.warning(
            "%s: worse than before training, by more than the noise. Try %s", ", ".join(worse), advice(config)
        )
    return rows


def row_of(
    split: str, after: float | None, unmixed: float | None, change: Change | None, metric: str
) -> dict[str, Any]:
    """Return the row of a split: its figures, and their difference with its interval if both are known."""
    row: dict[str, Any] = {"split": split, "metric": metric, "before": None, "unmixed": unmixed, "after": after}
    row |= {"difference": None, "interval": None, "interval_over": None, "worse": False}
    if change is not None:
        row |= {"before": change.before, "difference": change.after - change.before, "worse": change.worse}
        if change.comparison is not None:
            interval = change.comparison.interval
            row |= {"interval": [interval.low, interval.high], "interval_over": interval.over}
    return row


def table(rows: list[dict[str, Any]], metric: Metric) -> str:
    """Return the rows as text, in aligned columns."""
    mixed, number = any(row["unmixed"] is not None for row in rows), metric.shown
    cells = [["to keep", f"{metric.heading} before", *(["trained"] if mixed else []), "after", "difference", ""]]
    for row in rows:
        around = ""
        if row["interval"]:
            low, high = (number(limit, "+") for limit in row["interval"])
            around = f"paired 95 % interval {low} to {high} over {row['interval_over']}"
        parts = [row["split"], number(row["before"]), *([number(row["unmixed"])] if mixed else [])]
        note = ", ".join(filter(None, [around, "worse" if row["worse"] else ""]))
        cells.append([*parts, number(row["after"]), number(row["difference"], "+"), note])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [one[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(one[1:-1], widths[1:-1], strict=True)), one[-1]]
        )
        for one in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def advice(config: FinetuneConfig) -> str:
    """Return what a run can do against forgetting that this one does not."""
    ways = {
        "interpolate": "`interpolate: auto`",
        "sources": "replay of such data through `sources`",
        "lora_rank": "`lora_rank: 8`",
        "train": "fewer parts by `train`",
    }
    unused = [way for key, way in ways.items() if not getattr(config, key, None)]
    return f"{', '.join(unused[:-1])}, or {unused[-1]}" if len(unused) > 1 else "".join(unused) or "fewer steps"
