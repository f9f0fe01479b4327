"""Plots of a run: loss, learning rate and evaluation figures over the optimizer steps."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sft_speech.options.spec import Metric, TaskSpec

Curve = tuple[str, Sequence[float], list[float]]  # label, steps, values


def plots(log: list[dict[str, Any]], spec: TaskSpec, figures: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Return PNG files by name, from the entries of a trainer's log; figures logged once are not plotted.

    Args:
        figures: those of a finished run; they may have the curve of an interpolation.
    """
    drawn = curves_of(log, spec)
    pictures = {f"plots/{file}": draw(title, curves) for file, (title, curves) in drawn.items()}
    mixed = (figures or {}).get("interpolation", {})
    if len(mixed.get("curve", [])) > 1:
        pictures["plots/interpolation.png"] = interpolation_plot(mixed, spec.metric(mixed["metric"]))
    return pictures


def curves_of(log: list[dict[str, Any]], spec: TaskSpec) -> dict[str, tuple[str, list[Curve]]]:
    """Return the title and the curves of each plot by the name of its file; figures logged once have no curve."""
    found = [curve(log, f"eval_{one.name}", one.heading, one.scale) for one in spec.metrics if one.curve]
    losses = [curve(log, "loss", "training"), curve(log, "eval_loss", "evaluation")]
    wanted = {
        "loss.png": (f"loss, {spec.card.loss_unit}", losses),
        "evaluation.png": ("evaluation", found),
        "learning_rate.png": ("learning rate", [curve(log, "learning_rate", "learning rate")]),
        "gradient.png": ("norm of the gradient", [curve(log, "grad_norm", "norm of the gradient")]),
    }
    for file, (title, labels) in spec.card.pictures.items():
        wanted[file] = title, [curve(log, key, label) for key, label in labels.items()]
    drawn = {file: (title, [one for one in curves if len(one[1]) > 1]) for file, (title, curves) in wanted.items()}
    return {file: (title, curves) for file, (title, curves) in drawn.items() if curves}


def interpolation_plot(mixed: Mapping[str, Any], metric: Metric) -> bytes:
    """Return a PNG of the metric of each share of the trained weights; the share that is used is marked."""
    shares, values = zip(
        *((point["share"], metric.scale * point[metric.name]) for point in mixed["curve"]), strict=True
    )
    lines: list[Curve] = [(metric.heading, shares, list(values))]
    title = f"{metric.heading} on the evaluation split"
    return draw(title, lines, "share of the trained weights", mixed["share"])


def curve(log: list[dict[str, Any]], key: str, label: str, scale: float = 1.0) -> Curve:
    """Return the curve of a figure of the log, without values that are not finite."""
    found = [(entry["step"], scale * entry[key]) for entry in log if math.isfinite(entry.get(key) or math.nan)]
    return label, [step for step, _ in found], [value for _, value in found]


def draw(
    title: str,
    curves: list[Curve],
    over: str = "optimizer step",
    chosen: float | None = None,
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    marked: bool = False,
) -> bytes:
    """Return curves as PNG.

    Args:
        over: label of the horizontal axis.
        chosen: step to mark by a vertical line.
        bands: intervals around the values of curves, by label.
        marked: label the axis at the steps of the first curve only.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(7, 3.5))
    axis = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.98, "bottom": 0.15, "top": 0.9})
    for label, steps, values in curves:
        (line,) = axis.plot(steps, values, label=label, marker="o" if len(steps) <= 30 else None, markersize=3)
        if bands and label in bands:
            low, high = zip(*bands[label], strict=True)
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if chosen is not None:
        axis.axvline(chosen, color="gray", linestyle="--")
    axis.set(title=title, xlabel=over)
    axis.grid(alpha=0.3)
    axis.set_ylim(bottom=0)
    if marked:
        axis.set_xticks(curves[0][1])
    if len(curves) > 1:
        axis.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
