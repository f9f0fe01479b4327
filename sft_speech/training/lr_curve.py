"""What a range test of the learning rate says: the loss after each update, as the rate grows exponentially."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH = 2.0  # updates; standard deviation of the Gaussian that smooths the curve
LEAST_FALL = 0.01  # share of the loss; a curve that falls less is flat
NOISE = 4.0  # standard deviations of the noise; a curve that falls less is flat
LEVEL = 0.1  # share of the updates at the start, whose loss counts as that of the checkpoint
RISEN = 0.1  # share of the fall; the loss rises where it is above its minimum by more
FLOOR = 0.01  # share of the fall; the loss is at its lowest where it is above its minimum by no more
SPAN = 10.0  # the highest over the lowest rate to use


@dataclass(frozen=True)
class Curve:
    """The loss by learning rate, and the rates to use.

    The range ends at the highest rate at which the loss is at its lowest: the largest that can be the peak of a
    schedule (Smith 2017, arXiv 1506.01186, section 3.3; Smith 2018, arXiv 1803.09820). It begins at a tenth of it,
    fastai's "minimum". Where the loss falls fastest (fastai's "steep") says little about how high the rate may be: an
    easy corpus is learned while the rate is still low. Nor does the middle of the longest fall ("valley"), which begins
    where the noise of training batches ends: here the same batches are measured, and the loss falls from the start.

    Args:
        rates: (N,) learning rate of each update, growing.
        losses: (N,) loss of the same batches after each update.
        smooth: (N,) the smoothed losses.
        start: loss of the checkpoint.
        fastest: rate at which the loss falls fastest; None if the curve is flat.
        rises: rate from which on the loss rises; None if it does not, up to the highest rate.
        high: highest rate to use; None if the curve is flat.
    """

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    start: float
    fastest: float | None
    rises: float | None
    high: float | None = None

    @property
    def low(self) -> float | None:
        """The lowest rate to use."""
        return None if self.high is None else self.high / SPAN

    @property
    def suggested(self) -> float | None:
        """The middle of the range, on a logarithmic scale."""
        return None if self.high is None else self.high / math.sqrt(SPAN)

    def words(self) -> str:
        """Return the suggestion with its reason."""
        end = f"{shown(float(self.rates[-1]))}, the highest rate that was tried"
        rising = f"rises from {shown(self.rises)} on" if self.rises else f"does not rise up to {end}"
        if self.fastest is None or self.low is None or self.high is None or self.suggested is None:
            fall = f"{max(0.0, 100 * (1 - self.smooth.min() / self.start)):.1f} %" if self.start > 0 else "0 %"
            do = "use a small rate, and look at what is trained" if self.rises else "look at what is trained"
            return f"the curve is flat: the loss falls by at most {fall}, and {rising}. No rate is suggested: {do}"
        return (
            f"the loss falls fastest at {shown(self.fastest)}, is lowest at {shown(self.high)} and {rising}: use a "
            f"learning rate of {shown(self.low)} to {shown(self.high)}, the lower end if the model should forget "
            f"little; in the middle is --learning_rate {shown(self.suggested)}"
        )

    def table(self) -> str:
        """Return the curve as CSV."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["learning_rate", "loss", "smoothed_loss"])
        for row in zip(self.rates, self.losses, self.smooth, strict=True):
            lines.writerow([f"{value:.6g}" for value in row])
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        names = ("suggested", "low", "high", "fastest", "rises")
        return {name: getattr(self, name) for name in names} | {
            "flat": self.high is None,
            "start_loss": self.start,
            "lowest_loss": float(self.smooth.min()),
            "updates": len(self.rates),
            "words": self.words(),
        }

    def picture(self, title: str, unit: str) -> bytes:
        """Return a PNG of the curve, the range of rates to use, and where the loss falls fastest and rises."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5))
        axis = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.98, "bottom": 0.13, "top": 0.9})
        axis.plot(self.rates, self.losses, ".", color="tab:blue", alpha=0.5, label="after each update")
        axis.plot(self.rates, self.smooth, color="tab:blue", label="smoothed")
        if self.low is not None and self.high is not None:
            label = f"use {shown(self.low)} to {shown(self.high)}"
            axis.axvspan(self.low, self.high, color="tab:green", alpha=0.2, label=label)
        marks = (("falls fastest", self.fastest, "tab:green", "--"), ("rises", self.rises, "tab:red", ":"))
        for what, rate, color, style in marks:
            if rate is not None:
                axis.axvline(rate, color=color, linestyle=style, label=f"{what}: {shown(rate)}")
        lowest = float(self.smooth.min())
        room = max(self.start - lowest, 0.02 * abs(self.start))
        axis.set_ylim(lowest - 0.15 * room, self.start + 0.6 * room)  # the explosion at the end would hide the rest
        axis.set(xscale="log", title=title, xlabel="learning rate", ylabel=f"loss, {unit}")
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
        return file.getvalue()


def read_curve(rates: np.ndarray, losses: np.ndarray) -> Curve:
    """Find where the loss falls fastest and where it rises.

    Args:
        rates: (N,) learning rate of each update, growing exponentially.
        losses: (N,) finite losses after each update, N >= 3.
    """
    start = float(np.median(losses[: max(3, round(LEVEL * len(losses)))]))
    fall = start - losses.min()
    smooth = smoothed(
        np.minimum(losses, start + max(fall, 3 * LEAST_FALL * abs(start)))
    )  # a jump at the end stays there
    lowest = int(smooth.argmin())
    fall = start - float(smooth[lowest])
    noise = float(np.std((losses - smooth)[: lowest + 1]))
    flat = fall < max(LEAST_FALL * abs(start), NOISE * noise)
    risen = smooth > smooth[lowest] + max(RISEN * fall, LEAST_FALL * abs(start) if flat else 0.0)
    risen[: lowest + 1] = False
    rises = float(rates[risen.argmax()]) if risen.any() else None
    if flat or lowest == 0:
        return Curve(rates, losses, smooth, start, None, rises)
    fastest = float(rates[np.gradient(smooth)[: lowest + 1].argmin()])
    above = np.append(smooth[lowest:] > smooth[lowest] + FLOOR * fall, True)
    return Curve(rates, losses, smooth, start, fastest, rises, high=float(rates[lowest + int(above.argmax()) - 1]))


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return values (N,) smoothed by a Gaussian of :data:`WIDTH`; beyond their ends they continue as they end."""
    reach = math.ceil(3 * WIDTH)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / WIDTH) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def shown(rate: float) -> str:
    """Return a rate with two digits: 2e-4, 1.5e-3."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
