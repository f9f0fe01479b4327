"""A transcript whose tokens have times, and the times of its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.tasks.asr.recognizer import Hypothesis, Span
from sft_speech.text.scripts import has_no_spaces, is_unspaced

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class TimedHypothesis(Hypothesis):
    """The recognition of one clip by a model that gives each of its N tokens some frames.

    Args:
        tokens: (N,) ids, without blanks.
        starts, ends: (N,) frames [start, end) of each token.
        frame_seconds: seconds from one frame to the next.
        vocabulary: vocabulary of the tokens.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    frame_seconds: float
    vocabulary: Vocabulary

    def spans(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return words and characters. Their times are those of their frames; they increase and stay within the clip.

        A model of subwords has those in place of the characters. Frames of blanks between two words belong to neither.
        Where words have no spaces between them, each letter is a word, together with the signs after it.
        """
        split = has_no_spaces([self.text])
        words: list[list[Span]] = [[]]
        pieces = self.vocabulary.pieces(self.tokens.tolist())
        for piece, start, end in zip(pieces, self.starts.tolist(), self.ends.tolist(), strict=True):
            spaced = piece[:1].isspace()
            if spaced and words[-1]:
                words.append([])
            if text := piece.strip():
                first, last = (min(frame * self.frame_seconds, self.seconds) for frame in (start, end))
                glued = split and is_unspaced(text[0]) and bool(words[-1])
                if glued:
                    words.append([])
                words[-1].append(Span(text, first, last, glued))
        characters: list[Span] = []
        for word in filter(None, words):
            if characters and not word[0].glued:
                characters.append(Span(" ", characters[-1].end, word[0].start))
            characters.extend(word)
        whole = (
            Span("".join(one.text for one in word), word[0].start, word[-1].end, word[0].glued)
            for word in filter(None, words)
        )
        return tuple(whole), tuple(characters)
