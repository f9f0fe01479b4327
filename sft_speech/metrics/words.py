"""Word and character errors: counts that add up, their rates, and intervals of those.

A rate is always the sum of errors over the sum of reference words (characters) of the whole set, never a mean of rates.
The alignment is jiwer's. Characters include the spaces between words, as jiwer counts them.

Empty texts: an empty hypothesis deletes every word of its reference. Against an empty reference each word of the
hypothesis is an insertion, so silence transcribed as speech costs errors although it adds no reference words. If the
whole set has no reference words, its rate is the number of errors (jiwer's convention).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.metrics.intervals import Comparison, Interval, bootstrap_interval, compare

# For `evaluate.load(METRIC_PATH)`: word and character error rate without asking the Hub.
METRIC_PATH = str(Path(__file__).with_name("wer_metric.py"))


@dataclass(frozen=True)
class Errors:
    """Error counts over any number of utterances; ``+`` adds them."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def total(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference(self) -> int:
        """Words (characters) of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference word (character); may exceed 1."""
        return self.total / max(self.reference, 1)


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Return the errors in words of each utterance.

    Raises:
        ValueError: the two differ in length.
    """
    import jiwer

    if not references and not hypotheses:
        return []
    return _counts(jiwer.process_words(list(references), list(hypotheses)))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Return the errors in characters of each utterance, spaces between words included.

    Raises:
        ValueError: the two differ in length.
    """
    import jiwer

    if not references and not hypotheses:
        return []
    # A double space would be a character error, though no word error.
    return _counts(jiwer.process_characters([_squeezed(t) for t in references], [_squeezed(t) for t in hypotheses]))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _counts(output: Any) -> list[Errors]:
    counts = []
    for chunks in output.alignments:
        by_type: Counter[str] = Counter()
        for chunk in chunks:
            reference = chunk.ref_end_idx - chunk.ref_start_idx
            hypothesis = chunk.hyp_end_idx - chunk.hyp_start_idx
            by_type[chunk.type] += hypothesis if chunk.type == "insert" else reference
        counts.append(Errors(by_type["equal"], by_type["substitute"], by_type["delete"], by_type["insert"]))
    return counts


def confusions(references: Sequence[str], hypotheses: Sequence[str]) -> Counter[tuple[str, str]]:
    """Count which word became which: pairs (reference word, hypothesis word), "" for a missing one.

    ("the", "a") was substituted, ("the", "") deleted, ("", "the") inserted. Counters of parts of a corpus add up.
    """
    import jiwer

    counter: Counter[tuple[str, str]] = Counter()
    if not references:
        return counter
    output = jiwer.process_words(list(references), list(hypotheses))
    for reference, hypothesis, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        for chunk in chunks:
            expected = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            found = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "substitute":
                counter.update(zip(expected, found, strict=True))
            elif chunk.type == "delete":
                counter.update((word, "") for word in expected)
            elif chunk.type == "insert":
                counter.update(("", word) for word in found)
    return counter


def interval(errors: Sequence[Errors], speakers: Sequence[str] | None = None, *, seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of a rate; see :func:`~sft_speech.metrics.intervals.bootstrap_interval`.

    Args:
        errors: counts of each utterance.
        speakers: speaker of each utterance; "" if unknown.
    """
    return bootstrap_interval(counts_of(errors), rate_of, speakers, seed=seed)


def compare_rates(
    first: Sequence[Errors], second: Sequence[Errors], speakers: Sequence[str] | None = None, *, seed: int = 0
) -> Comparison:
    """Compare the rates of two systems on the same utterances by a paired bootstrap.

    Raises:
        ValueError: the systems differ in their number of utterances, or there is none.
    """
    return compare(counts_of(first), counts_of(second), rate_of, speakers, seed=seed)


def counts_of(errors: Sequence[Errors]) -> np.ndarray:
    """Return errors and reference words (characters) of each utterance, (N, 2)."""
    return np.array([(one.total, one.reference) for one in errors], dtype=float).reshape(-1, 2)


def rate_of(sums: np.ndarray) -> np.ndarray:
    """Return the rates (R,) of sums of errors and reference words (R, 2), as :attr:`Errors.rate` defines them."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def sum_errors(errors: Iterable[Errors]) -> Errors:
    """Return the sum of all counts."""
    return sum(errors, Errors())
