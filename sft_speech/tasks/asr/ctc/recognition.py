"""The result of recognition by a CTC model: the text, its tokens and their frames, and counts of frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sft_speech.tasks.asr.recognizer import Counts
from sft_speech.tasks.asr.timed import TimedHypothesis

# CTC learns the blank first; a model that has learned more gives it well under this share of the frames.
ONLY_BLANKS = 0.995


@dataclass(frozen=True)
class CtcCounts(Counts):
    """Counts of the frames of a CTC model.

    Args:
        frames, blanks: number of frames, and how many of them were blank.
        infeasible: utterances whose labels do not fit into their frames; their loss is 0.
        chance: frames * log(tokens), a bound for the summed loss of a model whose tokens are equally probable.
    """

    frames: int = 0
    blanks: int = 0
    infeasible: int = 0
    chance: float = 0.0

    @property
    def blank_share(self) -> float:
        """Share of frames in which the blank is the best token."""
        return self.blanks / self.frames if self.frames else float("nan")

    def figures(self) -> dict[str, float]:
        return {"infeasible": self.infeasible, "blank_share": self.blank_share}

    def metrics(self) -> dict[str, float]:
        return {"blank_share": self.blank_share}

    def summary(self) -> str:
        return f"{100 * self.blank_share:.1f} % blank frames"

    def warning(self, loss_sum: float) -> str:
        """Return a message if (almost) all frames are blank: early in training, or after it has diverged."""
        if not self.blank_share > ONLY_BLANKS:
            return ""
        why = "usual in the first few hundred steps"
        if loss_sum > self.chance:
            why = "its loss is worse than chance: it diverged, or was not trained"
        return f"{100 * self.blank_share:.1f} % of all frames are blank: the model outputs next to nothing ({why})"


@dataclass(frozen=True, kw_only=True)
class Recognition(TimedHypothesis):
    """The recognition of one clip by a CTC model: its tokens are those after CTC's collapse, repeats merged.

    The confidence in a word, or in the text, is the mean posterior of its tokens over the frames that have them:
    c = 1/|F| * sum of p(k_t | x) over t in F, where k_t is the path's token at the frame t, and F are the frames whose
    token belongs to the word and is no blank. This is the maximum probability without blanks, aggregated by the mean,
    of Laptev and Ginsburg 2022 (arXiv:2212.08703). The path is the best one, or that of the beam search.

    Args:
        scores: (T, V) log-probabilities, if they were requested.
    """

    scores: np.ndarray | None = None
    counts: CtcCounts = CtcCounts()

    def joint(self, chosen: np.ndarray) -> float:
        """Return the confidence in some tokens together, by their places (n,): the mean over their frames."""
        frames = (self.ends - self.starts)[chosen]
        return float(np.average(self.probabilities[chosen], weights=frames)) if frames.sum() else 0.0


def runs(ids: np.ndarray, blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collapse the best tokens (T,) of T frames as CTC does; return tokens (N,), and their frames [start, end)."""
    if len(ids) == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1])
    ends = np.append(starts[1:], len(ids))
    kept = ids[starts] != blank
    return ids[starts][kept], starts[kept], ends[kept]


def means(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the means (N,) of the values (T,) of frames over N stretches [start, end)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1)
