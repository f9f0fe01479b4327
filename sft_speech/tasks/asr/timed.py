"""A transcript whose tokens have times, and the times of its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.tasks.asr.recognizer import Hypothesis, Span, text_of
from sft_speech.text.scripts import has_no_spaces, is_unspaced

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary

TINY = 1e-10  # a probability whose logarithm is finite


@dataclass(frozen=True, kw_only=True)
class TimedHypothesis(Hypothesis):
    """The recognition of one clip by a model that gives each of its N tokens some frames.

    Args:
        tokens: (N,) ids, without blanks.
        starts, ends: (N,) frames [start, end) of each token.
        probabilities: (N,) of each token, as the model gives them.
        frame_seconds: seconds from one frame to the next.
        vocabulary: vocabulary of the tokens.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    probabilities: np.ndarray
    frame_seconds: float
    vocabulary: Vocabulary

    @property
    def confidence(self) -> float | None:
        return self.joint(np.arange(len(self.tokens))) if self.text else None

    def confident_words(self) -> tuple[tuple[str, float], ...]:
        return tuple((text_of(word), self.joint(np.array(tokens))) for word, tokens in self._words)

    def joint(self, chosen: np.ndarray) -> float:
        """Return the confidence in some tokens together, by their places (n,): exp of their mean log-probability."""
        return float(np.exp(np.log(np.maximum(self.probabilities[chosen], TINY)).mean()))

    def spans(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return words and characters. Their times are those of their frames; they increase and stay within the clip.

        A model of subwords has those in place of the characters. Frames of blanks between two words belong to neither.
        Where words have no spaces between them, each letter is a word, together with the signs after it.
        """
        words = [word for word, _ in self._words]
        characters: list[Span] = []
        for word in words:
            if characters and not word[0].glued:
                characters.append(Span(" ", characters[-1].end, word[0].start))
            characters.extend(word)
        whole = (Span(text_of(word), word[0].start, word[-1].end, word[0].glued) for word in words)
        return tuple(whole), tuple(characters)

    @cached_property
    def _words(self) -> Sequence[tuple[list[Span], list[int]]]:
        """Return the characters of each word, and the places of its tokens."""
        split = has_no_spaces([self.text])
        words: list[tuple[list[Span], list[int]]] = [([], [])]
        unfinished: list[int] = []  # tokens that are the first bytes of a character
        pieces = self.vocabulary.pieces(self.tokens.tolist())
        for place, (piece, start, end) in enumerate(zip(pieces, self.starts.tolist(), self.ends.tolist(), strict=True)):
            if piece[:1].isspace() and words[-1][0]:
                words.append(([], []))
            unfinished.append(place)
            if text := piece.strip():
                first, last = (min(frame * self.frame_seconds, self.seconds) for frame in (start, end))
                glued = split and is_unspaced(text[0]) and bool(words[-1][0])
                if glued:
                    words.append(([], []))
                words[-1][0].append(Span(text, first, last, glued))
                words[-1][1].extend(unfinished)
            if piece:
                unfinished = []
        return [word for word in words if word[0]]
