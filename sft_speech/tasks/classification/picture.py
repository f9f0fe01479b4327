"""The confusion of classes as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

MOST_CLASSES = 60
MOST_NUMBERED = 30  # classes up to which cells show their counts


def confusion_picture(labels: Sequence[str], counts: np.ndarray) -> bytes:
    """Draw a confusion matrix as PNG, each row shaded by its shares.

    If there are more than :data:`MOST_CLASSES` classes, those with the most mistakes are shown.

    Args:
        labels: C names.
        counts: (C, C) of expected classes (rows) by predicted ones (columns).
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    title = "share of the clips of a class"
    if len(labels) > MOST_CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
        title += f"; the {MOST_CLASSES} of {len(labels)} classes with the most mistakes"
        labels, counts = [labels[id] for id in chosen], counts[np.ix_(chosen, chosen)]
    size, shown = len(labels), [label if len(label) <= 24 else f"{label[:23]}…" for label in labels]
    inches = max(2.5, 0.35 * size if size <= MOST_NUMBERED else 0.2 * size)
    figure = Figure(figsize=(inches + 2.5, inches + 1.8), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 9 if size <= 20 else 7
    axis.set_xticks(range(size), shown, rotation=90, fontsize=small)
    axis.set_yticks(range(size), shown, fontsize=small)
    axis.set_xlabel("predicted")
    axis.set_ylabel("expected")
    axis.set_title(title, fontsize=9)
    figure.colorbar(image, shrink=0.8)
    if size <= MOST_NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=small, color=color)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
