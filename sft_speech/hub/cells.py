"""Cells of the tables of a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft_speech.hub.published import published
from sft_speech.options.spec import Metric


def cell(figures: dict[str, Any], metric: Metric) -> str:
    value, interval = figures.get(metric.name), figures.get(f"{metric.name}_interval")
    if value is None:
        return "–"
    shown = f"{metric.scale * value:.2f}"
    if not interval or None in interval:
        return shown
    low, high = (metric.scale * limit for limit in interval)
    return f"{shown} ({low:.2f} to {high:.2f})"


def decoding(figures: dict[str, Any]) -> str:
    found = figures.get("decoding", {})
    return "greedy" if found.get("search", "greedy") == "greedy" else f"beam, {published(str(found.get('lm')), True)}"


def difference(row: Mapping[str, Any], metric: Metric) -> str:
    """Return a difference with its interval, if it has one."""
    shown = metric.shown(row["difference"], "+")
    if row["interval"]:
        low, high = (metric.shown(limit, "+") for limit in row["interval"])
        shown += f" ({low} to {high})"
    return shown
