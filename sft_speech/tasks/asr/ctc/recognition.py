"""The result of recognition by a CTC model: the text, its tokens and their frames, and counts of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.tasks.asr.recognizer import Counts, Hypothesis, Span

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary

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
class Recognition(Hypothesis):
    """The recognition of one clip by a CTC model.

    Args:
        tokens: (N,) ids after CTC's collapse: repeats merged, blanks dropped.
        starts, ends: (N,) frames [start, end) in which each token was the best one.
        frame_seconds: seconds from one frame to the next.
        vocabulary: vocabulary of the tokens.
        scores: (T, V) log-probabilities, if they were requested.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    frame_seconds: float
    vocabulary: Vocabulary
    scores: np.ndarray | None = None
    counts: CtcCounts = CtcCounts()

    def spans(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return words and characters. Their times are those of their frames; they increase and stay within the clip.

        A model of subwords has those in place of the characters. Frames of blanks between two words belong to neither.
        """
        words: list[list[Span]] = [[]]
        pieces = self.vocabulary.pieces(self.tokens.tolist())
        for piece, start, end in zip(pieces, self.starts.tolist(), self.ends.tolist(), strict=True):
            if piece[:1].isspace() and words[-1]:
                words.append([])
            if text := piece.strip():
                times = (min(frame * self.frame_seconds, self.seconds) for frame in (start, end))
                words[-1].append(Span(text, *times))
        characters: list[Span] = []
        for word in filter(None, words):
            if characters:
                characters.append(Span(" ", characters[-1].end, word[0].start))
            characters.extend(word)
        whole = (Span("".join(one.text for one in word), word[0].start, word[-1].end) for word in filter(None, words))
        return tuple(whole), tuple(characters)


def runs(ids: np.ndarray, blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collapse the best tokens (T,) of T frames as CTC does; return tokens (N,), and their frames [start, end)."""
    if len(ids) == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1])
    ends = np.append(starts[1:], len(ids))
    kept = ids[starts] != blank
    return ids[starts][kept], starts[kept], ends[kept]
