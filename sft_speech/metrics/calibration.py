"""Calibration: whether of the words with a confidence of 0.8 four in five are right."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10  # of equal width


@dataclass(frozen=True)
class Calibration:
    """The confidences of N words, and whether they are right.

    Args:
        confidences: (N,) from 0 to 1.
        right: (N,) booleans.
    """

    confidences: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, words: Sequence[tuple[float, bool]]) -> Calibration:
        """Return the calibration of words, each with its confidence and whether it is right."""
        return cls(np.array([one for one, _ in words], float), np.array([right for _, right in words], bool))

    def bins(self) -> list[dict[str, float]]:
        """Return low and high bound, number of words, mean confidence and share of right words of each bin with words.

        A bin includes its upper bound; the first one includes 0 too.
        """
        places = np.clip(np.ceil(self.confidences * BINS).astype(int) - 1, 0, BINS - 1)
        found = []
        for place in np.unique(places).tolist():
            own = places == place
            bounds = {"low": place / BINS, "high": (place + 1) / BINS, "words": int(own.sum())}
            means = {"confidence": float(self.confidences[own].mean()), "right": float(self.right[own].mean())}
            found.append(bounds | means)
        return found

    @property
    def error(self) -> float:
        """The expected calibration error: sum over the bins of n_b / N * |right_b - confidence_b|, where n_b of N words
        are in the bin b (Guo et al. 2017, arXiv:1706.04599, equation 5).
        """
        gaps = (one["words"] * abs(one["right"] - one["confidence"]) for one in self.bins())
        return sum(gaps) / max(len(self.right), 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for a file."""
        return {"ece": self.error, "words": len(self.right), "bins": self.bins()}

    def lines(self) -> list[str]:
        """Return the figures as lines of text, highest confidence first."""
        lines = [f"confidence     words  right %   expected calibration error {100 * self.error:.1f} %"]
        for one in reversed(self.bins()):
            lines.append(f"{one['low']:.1f} to {one['high']:.1f}  {one['words']:>8,}   {100 * one['right']:>6.1f}")
        return lines


def right_words(reference: str, hypothesis: str) -> list[bool]:
    """Return which words of a hypothesis are right: aligned with the same word of the reference."""
    import jiwer

    found = [False] * len(hypothesis.split())
    if not found:
        return found
    output = jiwer.process_words([reference], [hypothesis])
    for chunk in output.alignments[0]:
        if chunk.type == "equal":
            found[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return found


def confidences_after(
    words: Sequence[tuple[str, float]], normalized: Sequence[str], normalize: Callable[[str], Sequence[str]]
) -> list[float]:
    """Return the confidences of the words of a normalized text.

    A normalizer may split a word, or join two of them. A word that came out of others has the mean of theirs.

    Args:
        words: those that were written, with their confidences.
        normalized: the words after normalization.
        normalize: returns the words that one word becomes.
    """
    if [_letters(word) for word, _ in words] == [_letters(word) for word in normalized]:  # nearly always
        return [confidence for _, confidence in words]
    single = [(one, confidence) for word, confidence in words for one in normalize(word)]
    if not single:
        return [0.0] * len(normalized)
    sure = [confidence for _, confidence in single]
    mean, found = float(np.mean(sure)), [0.0] * len(normalized)
    matcher = difflib.SequenceMatcher(None, [one for one, _ in single], list(normalized), autojunk=False)
    for kind, first, stop, to, end in matcher.get_opcodes():
        block = sure[first:stop]
        found[to:end] = block if kind == "equal" else [float(np.mean(block)) if block else mean] * (end - to)
    return found


def _letters(word: str) -> str:
    """Return the letters and digits of a word."""
    return "".join(filter(str.isalnum, word.casefold()))
