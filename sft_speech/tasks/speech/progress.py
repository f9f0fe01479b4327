"""How far generated speech has got in its input, and when it ends.

A model that reads aloud attends to the input from its beginning to its end. When it is lost, its attention stands still
or jumps back, and its stop signal may never come. Its attention then says where to cut.

Legend: N encoder steps (text tokens, or frames of a recording), D decoder steps.
"""

from __future__ import annotations

from statistics import median
from typing import Literal

import numpy as np

Ending = Literal["stop", "spoken", "stuck", "repeated", "limit"]
WHY: dict[Ending, str] = {
    "stop": "stopped: the model gave its signal",
    "spoken": "stopped: the {source} was spoken",
    "stuck": "cut after {seconds:.1f} s: it went no further in the {source}",
    "repeated": "cut after {seconds:.1f} s: it repeated itself",
    "limit": "cut after {seconds:.1f} s: it was too long for the {source}",
}
CUT: tuple[Ending, ...] = ("stuck", "repeated", "limit")  # the others end by themselves

SMOOTH = 5  # decoder steps whose median is the position, so that a single glance elsewhere does not count
NEAR, NEAR_SHARE = 2, 0.03  # what is near a position, in encoder steps and as a share of them
SHORT = 16  # in shorter inputs less is near: even attention would have its maximum anywhere, with much near it
FOCUS = 0.4  # share of the attention near its maximum; a step with less says nothing about the position
COVERED = 0.5  # share of the input up to the position that was passed through; else the attention is not a reader's
TAIL_SECONDS = 0.3  # from when the attention reaches the end of the input until its last sound has ended
PATIENCE_SECONDS = 1.5  # without progress; pauses between sentences are shorter


class Progress:
    """Follows the attention of one utterance, and decides when it ends.

    Args:
        last: encoder steps from this one on belong to no sound: the end of the text and punctuation before it, or the
            last moment of a recording. None: the attention is not followed, only the stop signal and the limit.
        limit: most decoder steps.
        seconds_per_step: length of a decoder step.

    Attributes:
        ending: why the utterance has ended; None: it goes on.
        kept: decoder steps until its end.
        attention: what each step attended to, (N,).
    """

    def __init__(self, last: int | None, limit: int, seconds_per_step: float) -> None:
        self.last, self.limit = last, max(1, limit)
        self.tail, self.patience = (max(1, round(s / seconds_per_step)) for s in (TAIL_SECONDS, PATIENCE_SECONDS))
        self.ending: Ending | None = None
        self.kept = 0
        self.attention: list[np.ndarray] = []
        self.recent: list[int] = []  # positions of the last steps that had one
        self.furthest, self.since = -1, 0  # largest position, and the step at which it was reached
        self.waiting: list[int] = []  # positions since then
        self.passed: set[int] = set()  # all positions

    def add(self, attention: np.ndarray, stop: bool) -> None:
        """Add a decoder step: what it attended to (N,), and whether the model gave its stop signal."""
        self.attention.append(attention)
        step = len(self.attention)
        if self.last is not None:
            self._follow(attention, step)
        if stop:
            self._end("stop", step)
        elif ending := self._why_over(step, len(attention)):
            self._end(ending, min(step, self.since + self.tail))
        elif step >= self.limit:
            self._end("limit", step)

    def _follow(self, attention: np.ndarray, step: int) -> None:
        position, near = int(attention.argmax()), self._near(len(attention))
        if attention[max(0, position - near) : position + near + 1].sum() < FOCUS:
            return
        self.recent = [*self.recent[1 - SMOOTH :], position]
        now = int(median(self.recent))
        self.passed.add(now)
        if now > self.furthest and (self.last is None or self.furthest < self.last):
            self.furthest, self.since, self.waiting = now, step, []
        else:
            self.waiting.append(now)

    def _why_over(self, step: int, steps: int) -> Ending | None:
        """Return why the attention says that the utterance is over; None if it does not."""
        near, waited = self._near(steps), len(self.waiting) >= self.patience
        arrived = self.last is not None and self.furthest >= self.last and step - self.since >= self.tail
        if not (arrived or waited) or not self._reads(near):
            return None
        if arrived or self.furthest >= (self.last or 0) - near:  # or the end was passed too quickly for the median
            return "spoken"
        behind = sum(self.furthest - one > near for one in self.waiting)
        return "repeated" if 2 * behind > len(self.waiting) else "stuck"

    def _reads(self, near: int) -> bool:
        """Return whether the attention has moved through the input; that of some heads rests on one of its ends."""
        covered = {one + more for one in self.passed for more in range(-near, near + 1)}
        return self.furthest > near and len(covered & set(range(self.furthest))) >= COVERED * self.furthest

    def _near(self, steps: int) -> int:
        return max(NEAR * min(steps, SHORT) // SHORT, round(NEAR_SHARE * steps))

    def _end(self, ending: Ending, kept: int) -> None:
        self.ending, self.kept = ending, kept
