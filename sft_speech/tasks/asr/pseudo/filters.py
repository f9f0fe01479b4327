"""Filters of pseudo-labels: why a transcript of a teacher should not be learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from sft_speech.errors import UserError
from sft_speech.metrics.loops import letters, loop_of
from sft_speech.metrics.words import word_errors
from sft_speech.text.scoring import Scoring, make_scoring, normalizer_for

Rejection = tuple[str, str]  # why a label is rejected: a category, and details about this one

CHARS_PER_SECOND = (1.0, 30.0)  # read English has about 15; the fastest of 5 hours of LibriSpeech have 23
MAX_WER = 0.1  # the threshold of distil-whisper (Gandhi et al. 2023, arXiv:2311.00430)


@dataclass(frozen=True)
class Label:
    """What a teacher wrote for a recording.

    Args:
        confidence: see :attr:`~sft_speech.tasks.asr.recognizer.Hypothesis.confidence`.
        seconds: length of what was read.
        language: code of the language, "" if it is not known.
        silent: whether the teacher found no speech; None if it cannot tell.
        error: why the recording, or the rest of it, could not be read; "" if all of it was.
    """

    text: str
    confidence: float | None
    seconds: float
    language: str = ""
    silent: bool | None = None
    error: str = ""


@dataclass(frozen=True)
class Filters:
    """The conditions on pseudo-labels.

    Args:
        min_confidence: labels with a lower confidence are rejected; None: none are.
        keep_share: share of the labels that pass all other filters to keep, the most confident ones; None: all.
        chars_per_second: lower and upper bound; wide characters (Chinese, Japanese, Korean) count as 3.
        max_wer: labels are rejected if that of a second teacher differs by a larger WER.
    """

    min_confidence: float | None = None
    keep_share: float | None = None
    chars_per_second: tuple[float, float] = CHARS_PER_SECOND
    max_wer: float = MAX_WER

    def __post_init__(self) -> None:
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UserError(f"min_confidence {self.min_confidence:g}", "a confidence is from 0 to 1", "give 0.8, say")
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise UserError(f"keep_share {self.keep_share:g}", "it is a share of the labels", "give 0.5, say")
        if self.min_confidence is not None and self.keep_share is not None:
            raise UserError("min_confidence and keep_share", "each sets a limit of its own", "remove one of them")
        low, high = self.chars_per_second
        if not 0 <= low < high:
            raise UserError(
                f"chars_per_second {low:g} {high:g}", "no label is between them", "give the lower one first"
            )
        if not self.max_wer >= 0:
            raise UserError(f"max_wer {self.max_wer:g}", "it is a share of the words", "give 0.1, say")

    def why_not(self, label: Label, other: Label | None = None) -> Rejection | None:
        """Return why a label is rejected, if it is, but for ``keep_share``.

        Args:
            other: the label of a second teacher.
        """
        return self._why_bad(label) or self._why_unsure(label) or self._why_different(label, other)

    def _why_bad(self, label: Label) -> Rejection | None:
        if label.error:
            return ("read in part" if label.seconds else "unreadable"), label.error
        if label.silent:
            return "no speech", label.text
        if not any(map(str.isalnum, label.text)):
            return "empty", label.text
        if loop_of(label.text, label.seconds) == "repetition":
            return "repetition", ""
        rate, (low, high) = letters(label.text) / max(label.seconds, 1e-3), self.chars_per_second
        if not low <= rate <= high:
            return "characters per second", f"{rate:.1f}, not {low:g} to {high:g}"
        return None

    def _why_unsure(self, label: Label) -> Rejection | None:
        if self.min_confidence is None or (label.confidence or 0.0) >= self.min_confidence:
            return None
        return "low confidence", "unknown" if label.confidence is None else f"{label.confidence:.3f}"

    def _why_different(self, label: Label, other: Label | None) -> Rejection | None:
        if other is None:
            return None
        difference = wer_between(label.text, other.text, label.language or other.language)
        if difference <= self.max_wer:
            return None
        return "teachers differ", f"WER {difference:.0%}, the other wrote: {other.text}"


class Judged(NamedTuple):
    """A label, and why it is rejected; None if it is kept."""

    label: Label
    why: Rejection | None


def judge(filters: Filters, labels: Sequence[Label], others: Sequence[Label] | None = None) -> list[Judged]:
    """Return labels with the reasons why they are rejected.

    Args:
        others: the labels of a second teacher.
    """
    second: Sequence[Label | None] = [None] * len(labels) if others is None else others
    why = [filters.why_not(label, other) for label, other in zip(labels, second, strict=True)]
    if filters.keep_share is not None:
        passed = [place for place, one in enumerate(why) if one is None]
        passed.sort(key=lambda place: -(labels[place].confidence or 0.0))
        for place in passed[math.ceil(filters.keep_share * len(passed)) :]:
            confidence = labels[place].confidence
            why[place] = "not among the most confident", f"{confidence:.3f}" if confidence is not None else "unknown"
    return [Judged(label, one) for label, one in zip(labels, why, strict=True)]


def wer_between(reference: str, hypothesis: str, language: str) -> float:
    """Return the WER of one text against another; case and punctuation do not matter, nor digits in English.

    Where there are no spaces between words, it is that of letters.
    """
    scoring = scoring_in(language)
    texts = [scoring.words(scoring.reference(text)) for text in (reference, hypothesis)]
    (errors,) = word_errors(texts[:1], texts[1:])
    return errors.rate


@cache
def scoring_in(language: str) -> Scoring:
    """Return the comparison of texts in a language, "" if it is not known."""
    return make_scoring(normalizer_for(language or None), language or None, str, {})
