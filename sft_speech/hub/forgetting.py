"""The sections of a model card on what the model kept, and on the interpolation of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft_speech.hub import markdown
from sft_speech.hub.cells import difference
from sft_speech.options.spec import Metric, TaskSpec


def sections(figures: Mapping[str, Any], spec: TaskSpec) -> list[str]:
    """Return the sections for the figures of a finished run; [] if it has none."""
    kept, mixed = figures.get("keep"), figures.get("interpolation")
    lines = []
    if kept:
        lines += ["## What it kept\n", kept_table(kept, spec.metric(kept[0]["metric"]))]
    if mixed:
        lines += ["## Interpolation\n", *interpolation(mixed, figures, spec.metric(mixed["metric"]))]
    return lines


def kept_table(rows: list[dict[str, Any]], metric: Metric) -> str:
    """Return a table of the figures before and after fine-tuning."""
    mixed = any(row["unmixed"] is not None for row in rows)
    heads = ["split", f"{metric.heading} before", *(["without interpolation"] if mixed else []), "after", "difference"]
    cells = [
        [
            row["split"].removeprefix("keep_"),
            metric.shown(row["before"]),
            *([metric.shown(row["unmixed"])] if mixed else []),
            metric.shown(row["after"]),
            difference(row, metric),
        ]
        for row in rows
    ]
    over = {row["interval_over"] for row in rows if row["interval"]}
    note = f"In parentheses: paired 95 % bootstrap intervals over {' or '.join(sorted(over))}. " if over else ""
    return f"{markdown.table(heads, cells)}\n\n{note}These splits selected nothing.\n"


def interpolation(mixed: Mapping[str, Any], figures: Mapping[str, Any], metric: Metric) -> list[str]:
    """Return the lines on an interpolation."""
    share = f"{mixed['share']:g}"
    lines = [
        f"The weights are a mean (WiSE-FT) of those at the start and the trained ones, with {share} of the latter "
        f"({mixed['rule']}).\n"
    ]
    name = f"eval_{metric.name}"
    if name in mixed["unmixed"] and name in figures:
        without, with_it = metric.shown(mixed["unmixed"][name]), metric.shown(figures[name])
        lines.append(f"{metric.heading} on the evaluation split: {without} without interpolation, {with_it} with it.\n")
    if curve := mixed["curve"]:
        rows = [
            [f"{row['share']:.1f}", metric.shown(row[metric.name]), metric.shown(row["standard_error"])]
            for row in curve
        ]
        heads = ["share", f"{metric.heading} on the evaluation split", "standard error of the difference to the best"]
        lines.append(markdown.table(heads, rows) + "\n")
    if names := mixed["not_mixed"]:
        lines.append(
            f"Not mixed, since they are new or of another shape at the start: {markdown.text(', '.join(names))}\n"
        )
    return lines
