"""The picture of a comparison: the error of each candidate with its interval, and error against cost."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.tools.compare.advice import number
from sft_speech.tools.compare.judge import Candidate, Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 40  # candidates drawn
LABEL = 56  # characters of a name
FAR = 4.0  # errors that are this many times the median are drawn at the edge


@dataclass(frozen=True)
class Colors:
    """Colors of a picture, as the page has them."""

    paper: str
    ink: str
    soft: str
    line: str
    bar: str
    chosen: str


LIGHT = Colors("#ffffff", "#1d2126", "#59616b", "#d9d6d0", "#3a6ea5", "#c2410c")
DARK = Colors("#1e2227", "#e8e6e3", "#a9b0b8", "#3a4048", "#7fb0e6", "#ffb070")

TRAINING, SPEED = "training, seconds", "speed of use, x real time"
OF_PROCESSOR = {TRAINING: "training, CPU seconds", SPEED: "speed of use, seconds of audio per CPU second"}
Cost = Callable[[Candidate], float | None]
COSTS: dict[str, Cost] = {
    TRAINING: lambda one: one.training_seconds,
    "size, MB": lambda one: one.outcome.bytes / 1e6 or None,
    "peak memory, GB": lambda one: (one.outcome.peak_bytes or 0) / 1e9 or None,
    SPEED: lambda one: one.speed,
}


def picture(judgement: Judgement, colors: Colors = LIGHT) -> bytes | None:
    """Draw the candidates as PNG: a row each with its error, and error against up to two costs.

    Returns:
        None if no candidate finished.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    drawn = judgement.candidates[:MOST]
    if not drawn:
        return None
    costs = [name for name, cost in COSTS.items() if _varies([cost(one) for one in drawn])][:2]
    height = max(2.2 + 0.32 * len(drawn), 3.2 if len(costs) < 2 else 6.0)
    figure = Figure(figsize=(12 if costs else 8, height), layout="constrained", facecolor=colors.paper)
    if costs:
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.25, 1), facecolor=colors.paper)
        left, right = halves
        panels = list(right.subplots(len(costs), 1, squeeze=False)[:, 0])
    else:
        left, panels = figure, []
    limit = _limit([judgement.metric.scale * one.scores[judgement.role].value for one in drawn])
    axis = left.subplots()
    _rows(axis, judgement, drawn, limit, colors)
    for panel, name in zip(panels, costs, strict=True):
        _against(panel, judgement, drawn, limit, name, colors)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor=colors.paper)
    return file.getvalue()


def _varies(values: list[float | None]) -> bool:
    known = [value for value in values if value]
    return len(known) > 1 and max(known) > 1.02 * min(known)


def _limit(values: list[float]) -> float:
    """Return the value beyond which candidates are drawn at the edge; infinite if none is far from the others."""
    far = FAR * float(np.median(values))
    return far if max(values) > far > 0 else math.inf


def _look(judgement: Judgement, one: Candidate, colors: Colors) -> dict[str, Any]:
    """Return marker and colors: a diamond for the recommended, full for those like the best, hollow for the others."""
    if one is judgement.chosen:
        return {"marker": "D", "color": colors.chosen, "markerfacecolor": colors.chosen, "markersize": 7.5}
    if one.alike:
        return {"marker": "o", "color": colors.bar, "markerfacecolor": colors.bar, "markersize": 6.5}
    return {"marker": "o", "color": colors.soft, "markerfacecolor": colors.paper, "markersize": 6.5}


def _rows(axis: Axes, judgement: Judgement, drawn: list[Candidate], limit: float, colors: Colors) -> None:
    """Draw a row per candidate, the best at the top, with error and interval."""
    metric, role = judgement.metric, judgement.role
    for row, one in enumerate(drawn):
        score, look = one.scores[role], _look(judgement, one, colors)
        value = metric.scale * score.value
        text = number(metric, score.value)
        if value > limit:
            axis.plot([limit], [row], **(look | {"marker": ">"}))
            axis.annotate(
                f"{text} ",
                (limit, row),
                (-8, 0),
                textcoords="offset points",
                va="center",
                ha="right",
                fontsize=8.5,
                color=colors.soft,
            )
            continue
        if score.interval is not None:
            ends = [min(metric.scale * end, limit) for end in (score.interval.low, score.interval.high)]
            axis.plot(ends, [row, row], color=look["color"], linewidth=2, solid_capstyle="butt", alpha=0.75)
        axis.plot([value], [row], linestyle="none", zorder=3, **look)
    axis.set_yticks(range(len(drawn)), [f"{_shortened(one.name)}  {rank}" for rank, one in enumerate(drawn, 1)])
    for label, one in zip(axis.get_yticklabels(), drawn, strict=True):
        label.set_color(colors.chosen if one is judgement.chosen else colors.ink)
        label.set_fontweight("bold" if one is judgement.chosen else "normal")
        label.set_parse_math(False)
    axis.set_ylim(len(drawn) - 0.5, -0.5)
    axis.axvline(metric.scale * drawn[0].scores[role].value, color=colors.bar, linewidth=1, linestyle=":", zorder=0)
    split = judgement.comparison.splits.get(role, role)
    _dress(axis, f"{metric.heading} on {_shortened(split)}", "", colors)
    axis.set_title("with 95 % interval" if judgement.over else "", fontsize=9.5, color=colors.soft, loc="left")


def _against(axis: Axes, judgement: Judgement, drawn: list[Candidate], limit: float, name: str, colors: Colors) -> None:
    """Draw error against a cost; numbers are those of the rows."""
    metric, role, cost = judgement.metric, judgement.role, COSTS[name]
    points: list[tuple[int, float, float]] = []
    for rank, one in enumerate(drawn, 1):
        score, spent = one.scores[role], cost(one)
        if spent is None:
            continue
        value, look = min(metric.scale * score.value, limit), _look(judgement, one, colors)
        if score.interval is not None and value < limit:
            ends = [min(metric.scale * end, limit) for end in (score.interval.low, score.interval.high)]
            axis.plot([spent, spent], ends, color=look["color"], linewidth=1.2, alpha=0.35, zorder=1)
        if metric.scale * score.value > limit:
            look["marker"] = "^"
        axis.plot([spent], [value], linestyle="none", zorder=3, **look)
        points.append((rank, spent, value))
    spends = [spent for _, spent, _ in points]
    if max(spends) > 4 * min(spends):
        axis.set_xscale("log")
        _plain_ticks(axis, spends)
    axis.margins(x=0.12, y=0.1)
    _dress(axis, OF_PROCESSOR.get(name, name) if judgement.cpu else name, metric.heading, colors)
    _numbers(axis, points, colors)


def _plain_ticks(axis: Axes, values: list[float]) -> None:
    """Give a logarithmic axis ticks at 1, 2 and 5 with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = max(values) / min(values) > 200
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _numbers(axis: Axes, points: list[tuple[int, float, float]], colors: Colors) -> None:
    """Write the number of each point beside it, moved up or down where numbers would overlap."""
    axis.figure.canvas.draw()  # places in pixels are known only now
    step = 13.0 * axis.figure.dpi / 100
    placed: list[tuple[float, float]] = []
    for rank, x, y in sorted(points, key=lambda point: (point[2], point[0])):
        across, up = axis.transData.transform((x, y))
        shifted = up
        while any(abs(across - other) < 2 * step and abs(shifted - taken) < step for other, taken in placed):
            shifted += 2.0
        placed.append((across, shifted))
        points_up = (shifted - up) * 72 / axis.figure.dpi
        axis.annotate(
            str(rank),
            (x, y),
            (9, points_up),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colors.ink,
            arrowprops={"arrowstyle": "-", "color": colors.soft, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            if points_up > 4
            else None,
        )


def _dress(axis: Axes, x: str, y: str, colors: Colors) -> None:
    axis.set_facecolor(colors.paper)
    axis.set_xlabel(x, color=colors.soft, fontsize=9.5, parse_math=False)
    axis.set_ylabel(y, color=colors.soft, fontsize=9.5)
    axis.tick_params(which="both", colors=colors.ink, labelsize=9, color=colors.line)
    axis.grid(axis="x" if not y else "both", color=colors.line, linewidth=0.7)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(colors.line)


def _shortened(name: str) -> str:
    """Return a name that can be drawn: one line, printable, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return line if len(line) <= LABEL else f"{line[: LABEL // 2]}…{line[-(LABEL // 2 - 1) :]}"
