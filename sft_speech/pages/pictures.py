"""Figures (SVG), spectrograms (PNG) and clips (FLAC) to embed in a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

from sft_speech.pages.markup import shown

WIDTH, HEIGHT = 360, 180  # of a figure, in SVG units
LEFT, BOTTOM, TOP = 44, 34, 8  # room for the axes
BINS = 30
POINTS = 1500  # of a scatter plot; more only make the page larger
BARS = 12
POINTS_MARKED = 30  # of a curve; points of longer ones are not marked
COLUMNS, BANDS, SIZE = 360, 64, 512  # of a spectrogram; samples of a frame
COLORS = 8  # of lines, in page.css
FAR = 3.0  # values this many times above all others of a figure are drawn at its top
RATE = 16_000  # samples per second of a clip in the page


def figure(name: str, description: str, body: str, height: int = HEIGHT, keys: Sequence[str] = ()) -> str:
    """Return an SVG with its name below, and a description for screen readers.

    Args:
        keys: labels of its colors, in their order.
    """
    label = shown(f"{name}: {description}")
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>'
    legend = "".join(
        f' <span class="key"><b class="key-{n % COLORS}"></b>{shown(key)}</span>' for n, key in enumerate(keys)
    )
    return f"<figure>{svg}<figcaption>{shown(name)}{legend}</figcaption></figure>"


def histogram(name: str, values: np.ndarray, unit: str, form: str = ".3g") -> str:
    """Return a histogram; its last bar holds everything above the 99.5 % quantile."""
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    counts, edges = np.histogram(np.minimum(values, high), BINS, (low, high))
    scale = (HEIGHT - BOTTOM - TOP) / counts.max()
    width = (WIDTH - LEFT) / BINS
    bars = "".join(
        f'<rect class="bar" x="{LEFT + n * width:.1f}" y="{HEIGHT - BOTTOM - count * scale:.1f}" '
        f'width="{width - 1:.1f}" height="{count * scale:.1f}"><title>{edges[n]:{form}} to {edges[n + 1]:{form}} '
        f"{shown(unit)}: {count:,}</title></rect>"
        for n, count in enumerate(counts)
        if count
    )
    description = (
        f"{len(values):,} values from {values.min():{form}} to {values.max():{form}} {unit}, "
        f"median {np.median(values):{form}}"
    )
    axes = _axes(high, float(counts.max()), unit, low, form, open_end=bool(values.max() > high))
    return figure(name, description, bars + axes)


def scatter(name: str, x: np.ndarray, y: np.ndarray, odd: np.ndarray, unit: str) -> str:
    """Return a scatter plot of N points, or of a sample if there are very many.

    Args:
        odd: (N,) mask of points to draw as crosses.
        unit: of ``x``.
    """
    if not len(x):
        return ""
    usual = np.flatnonzero(~odd)
    if len(usual) > POINTS:
        usual = np.random.default_rng(0).choice(usual, POINTS, replace=False)
    places = np.concatenate([usual, np.flatnonzero(odd)[:POINTS]])
    right, top = float(x[places].max()) * 1.02, float(y[places].max()) * 1.05
    across, up = (WIDTH - LEFT - 6) / max(right, 1e-9), (HEIGHT - BOTTOM - TOP) / max(top, 1e-9)
    marks = []
    for place in places:
        a, b = LEFT + x[place] * across, HEIGHT - BOTTOM - y[place] * up
        if odd[place]:
            marks.append(f'<path class="odd" d="M{a - 3:.1f} {b - 3:.1f}l6 6m0-6l-6 6"/>')
        else:
            marks.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="1.6"/>')
    description = f"{len(x):,} utterances, {int(odd.sum()):,} of them unusual, as crosses"
    return figure(name, description, "".join(marks) + _axes(right=right, top=top, unit=unit))


def _axes(right: float, top: float, unit: str, left: float = 0.0, form: str = ".3g", open_end: bool = False) -> str:
    """Return the axes: x from ``left`` to ``right`` in ``unit``, y from 0 to ``top``.

    Args:
        open_end: whether the last bar holds larger values too.
    """
    base, middle = HEIGHT - BOTTOM, (LEFT + WIDTH) / 2
    halfway = (left + right) / 2
    return (
        f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH}"/>'
        f'<text x="{LEFT}" y="{base + 13}">{left:{form}}</text>'
        f'<text x="{middle}" y="{base + 13}" text-anchor="middle">{halfway:{form}}</text>'
        f'<text x="{WIDTH}" y="{base + 13}" text-anchor="end">{"≥ " * open_end}{right:{form}}</text>'
        f'<text x="{middle}" y="{base + 27}" text-anchor="middle">{shown(unit)}</text>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{_short(top)}</text>'
        f'<text x="{LEFT - 4}" y="{base}" text-anchor="end">0</text>'
    )


def _short(number: float) -> str:
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.3g}".replace("e-0", "e-")


def _round_up(number: float) -> float:
    """Return the next larger number with one or two digits, as the end of an axis; 1 for 0."""
    if number <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(number))
    return next(unit * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if unit * step >= number * 0.999)


def bars(name: str, values: dict[str, float], unit: str) -> str:
    """Return a bar chart of the largest values, with the sum of the others as the last bar."""
    most = sorted(values.items(), key=lambda item: -item[1])
    rows = most[:BARS]
    if len(most) > BARS:
        rows.append((f"{len(most) - BARS:,} others", sum(value for _, value in most[BARS:])))
    if not rows:
        return ""
    step, left = 17, 110
    longest = max(value for _, value in rows) or 1.0
    body = ""
    for number, (label, value) in enumerate(rows):
        y, width = 4 + number * step, (WIDTH - left - 60) * value / longest
        short = label if len(label) <= 16 else f"{label[:15]}…"
        body += (
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{shown(short)}</text>'
            f'<rect class="bar" x="{left}" y="{y}" width="{max(width, 1):.1f}" height="{step - 4}"/>'
            f'<text x="{left + width + 5:.1f}" y="{y + 11}">{value:.3g} {shown(unit)}</text>'
        )
    description = ", ".join(f"{label} {value:.3g} {unit}" for label, value in rows)
    return figure(name, description, body, 8 + len(rows) * step)


def lines(name: str, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], over: str) -> str:
    """Return curves in one figure; a value at 0 that is far above all others is drawn at the top, with its number.

    Args:
        curves: label, x and y of each; one without values keeps its color. A ring marks what x = 0 holds.
        over: what x is.
    """
    every = [value for _, _, values in curves for value in values]
    later = [y for _, x, values in curves for at, y in zip(x, values, strict=True) if at > 0] or every
    top = max(every) if max(every) <= FAR * max(later) else 1.25 * max(later)
    top = _round_up(top)
    right = max(at for _, x, _ in curves for at in x) or 1.0
    across, up = (WIDTH - LEFT - 8) / right, (HEIGHT - BOTTOM - TOP) / top
    drawn = []
    for number, (label, x, values) in enumerate(curves):
        if not values:
            continue
        points = [(LEFT + at * across, HEIGHT - BOTTOM - min(y, top) * up) for at, y in zip(x, values, strict=True)]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        drawn.append(f'<path class="line line-{number % COLORS}" d="M{path}"/>')
        for (a, b), at, y in zip(points, x, values, strict=True):
            kind, radius = ("ring", 4) if at == 0 else ("mark", 2)
            if at == 0 or len(points) <= POINTS_MARKED:
                what = f"{shown(label)}, {'before training' if at == 0 else f'{at:g}'}: {y:.4g}"
                drawn.append(
                    f'<circle class="{kind} line-{number % COLORS}" cx="{a:.1f}" cy="{b:.1f}" r="{radius}">'
                    f"<title>{what}</title></circle>"
                )
            if y > top:
                drawn.append(f'<text x="{a + 8:.1f}" y="{b + 4:.1f}">↑ {_short(y)}</text>')
    ends = ", ".join(f"{label} from {values[0]:.4g} to {values[-1]:.4g}" for label, _, values in curves if values)
    keys = [label for label, *_ in curves]
    return figure(name, ends, _axes(right, top, over, left=0.0, form=".4g") + "".join(drawn), keys=keys)


def pairs(name: str, rows: Sequence[tuple[str, Sequence[float]]], unit: str, keys: Sequence[str]) -> str:
    """Return a bar chart with a bar of each row for each of the keys, such as before and after.

    Args:
        rows: label, and a value for each key.
        unit: of the values, after a space if it has one.
    """
    if not rows:
        return ""
    thick, left = 10, 150
    step = thick * len(keys) + 8
    longest = max(value for _, values in rows for value in values) or 1.0
    body = ""
    for number, (label, values) in enumerate(rows):
        y = 4 + number * step
        middle = y + thick * len(keys) / 2 + 4
        short = label if len(label) <= 24 else f"{label[:23]}…"
        named = f"{shown(short)}<title>{shown(label)}</title>"
        body += f'<text x="{left - 6}" y="{middle:.1f}" text-anchor="end">{named}</text>'
        for place, value in enumerate(values):
            width = max((WIDTH - left - 60) * value / longest, 1)
            bar = y + place * thick
            body += (
                f'<rect class="fill-{place % COLORS}" x="{left}" y="{bar}" width="{width:.1f}" height="{thick - 1}"/>'
                f'<text class="small" x="{left + width + 4:.1f}" y="{bar + 8.5}">{value:.3g}{shown(unit)}</text>'
            )
    description = "; ".join(
        f"{label} " + ", ".join(f"{key} {value:.3g}{unit}" for key, value in zip(keys, values, strict=True))
        for label, values in rows
    )
    return figure(name, description, body, 8 + len(rows) * step, keys)


def spectrogram(waveform: np.ndarray) -> str:
    """Return the mel spectrogram (80 dB range) of a waveform (S,) at :data:`RATE`, as a PNG in a data URI."""
    import matplotlib.image
    from transformers import audio_utils  # librosa's takes seconds to import, at the end of every run

    filters = audio_utils.mel_filter_bank(
        SIZE // 2 + 1,
        BANDS,
        min_frequency=0,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    power = audio_utils.spectrogram(
        waveform,
        audio_utils.window_function(SIZE),
        frame_length=SIZE,
        hop_length=max(64, -(-len(waveform) // COLUMNS)),
        power=2.0,
        pad_mode="constant",
        mel_filters=filters,
    )
    decibels = audio_utils.power_to_db(power, reference=max(float(power.max()), 1e-10), db_range=80.0)
    file = io.BytesIO()
    matplotlib.image.imsave(file, decibels[::-1], cmap="magma", vmin=-80, vmax=0, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def sound(waveform: np.ndarray) -> str:
    """Return a waveform (S,) at :data:`RATE` as a FLAC in a data URI: lossless, and every browser plays it."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"
