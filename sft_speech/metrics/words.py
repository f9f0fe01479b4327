"""Word and character errors: counts that add up, and what is said of them.

A rate is always the sum of errors over the sum of reference words (characters) of the whole set, never a mean of rates.
The alignment is jiwer's. Characters include the spaces between words, as jiwer counts them.

Empty texts: an empty hypothesis deletes every word of its reference; against an empty reference each word of the
hypothesis is an insertion, so silence that is transcribed as speech costs errors though it adds no reference words.
Where the whole set has no reference words, a rate is the bare number of errors (jiwer's convention), 0 when there are
none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# For `evaluate.load(METRIC_PATH)`: word and character error rate without asking the Hub.
METRIC_PATH = str(Path(__file__).with_name("wer_metric.py"))

RESAMPLES = 1000
# Below this many speakers a bootstrap over speakers says nothing (three speakers have ten distinct resamples).
FEWEST_SPEAKERS = 5


@dataclass(frozen=True)
class Errors:
    """Counts over any number of utterances; ``sum`` them by ``+``."""

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
    """Errors in words of each utterance.

    Raises:
        ValueError: the two differ in length.
    """
    import jiwer

    if not references and not hypotheses:
        return []
    return _counts(jiwer.process_words(list(references), list(hypotheses)))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Errors in characters of each utterance, spaces between words included.

    Raises:
        ValueError: the two differ in length.
    """
    import jiwer

    if not references and not hypotheses:
        return []
    # A double space would be an error in a character, though none in a word.
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
    """How often a word was heard as another one: (reference word, hypothesis word), "" for a word that isn't there.

    ("the", "a") was substituted, ("the", "") deleted, ("", "the") inserted. Counters of parts of a corpus add up.
    """
    import jiwer

    counter: Counter[tuple[str, str]] = Counter()
    if not references:
        return counter
    output = jiwer.process_words(list(references), list(hypotheses))
    for reference, hypothesis, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        for chunk in chunks:
            spoken = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "substitute":
                counter.update(zip(spoken, heard, strict=True))
            elif chunk.type == "delete":
                counter.update((word, "") for word in spoken)
            elif chunk.type == "insert":
                counter.update(("", word) for word in heard)
    return counter


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a rate, and over what was resampled: "speakers" or "utterances"."""

    low: float
    high: float
    over: str


def interval(errors: Sequence[Errors], speakers: Sequence[str] | None = None, *, seed: int = 0) -> Interval:
    """The 95 % percentile bootstrap interval of a rate.

    Whole speakers are drawn where all are known and there are at least FEWEST_SPEAKERS of them, because errors of one
    speaker go together; else utterances, which makes intervals too narrow for a new speaker. After Bisani and Ney,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. The same input gives the
    same interval.

    Args:
        errors: counts of each utterance.
        speakers: of each utterance; "" is an unknown one.

    Returns:
        NaN limits when there is no utterance.
    """
    counts = np.array([(e.total, e.reference) for e in errors], dtype=np.int64).reshape(-1, 2)
    over = "utterances"
    if speakers and all(speakers) and len(set(speakers)) >= FEWEST_SPEAKERS:
        over = "speakers"
        names, owner = np.unique(np.asarray(speakers), return_inverse=True)
        grouped = np.zeros((len(names), 2), dtype=np.int64)
        np.add.at(grouped, owner, counts)
        counts = grouped
    if len(counts) == 0:
        return Interval(float("nan"), float("nan"), over)
    rng = np.random.default_rng(seed)
    sums = np.array([counts[rng.integers(0, len(counts), len(counts))].sum(axis=0) for _ in range(RESAMPLES)])
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), [0.025, 0.975])
    return Interval(float(low), float(high), over)


def sum_errors(errors: Iterable[Errors]) -> Errors:
    """All counts together."""
    return sum(errors, Errors())
