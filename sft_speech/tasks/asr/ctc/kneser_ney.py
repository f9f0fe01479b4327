"""N-gram language models with interpolated modified Kneser-Ney smoothing, as KenLM's lmplz makes them.

Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation"; the discounts are those of Chen and
Goodman 1998. No package that pip installs does this: KenLM's has no lmplz, and those in Python back off without
interpolation or need counts that small texts lack. Everything is in memory, about 200 bytes per word of the text.

Legend: n length of an n-gram, V words with the three marks, U distinct n-grams of one length.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

logger = logging.getLogger(__name__)

MARKS = ("<unk>", "<s>", "</s>")
UNKNOWN, BEGIN, END = range(3)  # their numbers
FALLBACK = (0.5, 1.0, 1.5)  # discounts of counts 1, 2, and 3 or more, as lmplz --discount_fallback


@dataclass
class Grams:
    """The distinct n-grams of one length, in order of (prefix, word).

    Args:
        prefix: (U,) number of the n-gram's first n - 1 words among those of that length; 0 of single words.
        word: (U,) its last word.
        suffix: (U,) number of its last n - 1 words.
        counts: (U,) how often it occurs.
        begins: (U,) whether its first word is ``<s>``.
        probabilities: (U,) of the word after the prefix.
        backoffs: (U,) factor of the probabilities after a shorter context, where the n-gram is the context.
    """

    prefix: np.ndarray
    word: np.ndarray
    suffix: np.ndarray
    counts: np.ndarray
    begins: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray

    @classmethod
    def of(
        cls, prefix: np.ndarray, word: np.ndarray, suffix: np.ndarray, counts: np.ndarray, begins: np.ndarray
    ) -> Grams:
        """Return n-grams whose probabilities are not known yet."""
        return cls(prefix, word, suffix, counts, begins, np.zeros(len(word)), np.ones(len(word)))


def estimate(sentences: Iterable[list[str]], order: int, words: Iterable[str] = ()) -> tuple[list[str], list[Grams]]:
    """Return the words of a language model, and its n-grams of each length.

    If no sentence has as many words, the order is lower. Without a sentence, there are no n-grams.

    Args:
        sentences: without sentence marks.
        order: length of the longest n-grams.
        words: that the language model has even if no sentence does.
    """
    numbers = {word: number for number, word in enumerate((*MARKS, *words))}
    flat: list[int] = []
    for sentence in sentences:
        flat += (BEGIN, *(numbers.setdefault(word, len(numbers)) for word in sentence), END)
    if not flat:
        return list(numbers), []
    text = np.array(flat, np.int64)
    grams = count(text, len(numbers), order)
    for length, (these, longer) in enumerate(zip(grams, [*grams[1:], None], strict=True), start=1):
        smooth(these, grams[length - 2] if length > 1 else None, adjusted(these, longer), length)
    return list(numbers), grams


def count(text: np.ndarray, words: int, order: int) -> list[Grams]:
    """Return the n-grams of a text (T,) of sentences between marks, up to a length."""
    place = np.arange(len(text))
    place -= np.maximum.accumulate(np.where(text == BEGIN, place, 0))  # within the sentence
    single, nothing = np.arange(words), np.zeros(words, np.int64)
    found = [Grams.of(nothing, single, nothing, np.bincount(text, minlength=words), single == BEGIN)]
    here = text  # (T,) number of the n-gram that ends at each word
    for length in range(2, order + 1):
        ends = np.flatnonzero(place >= length - 1)
        if not len(ends):
            break
        keys, first, which, counts = np.unique(here[ends - 1] * words + text[ends], True, True, True)
        prefix = keys // words
        found.append(Grams.of(prefix, keys % words, here[ends[first]], counts, found[-1].begins[prefix]))
        here = np.full(len(text), -1)
        here[ends] = which
    return found


def adjusted(grams: Grams, longer: Grams | None) -> np.ndarray:
    """Return Kneser and Ney's counts (U,): how often the longest n-grams, and those that begin a sentence, occur; how
    many different words the others follow.
    """
    counts = grams.counts if longer is None else np.bincount(longer.suffix, minlength=len(grams.word))
    counts = np.where(grams.begins, grams.counts, counts)
    return np.where(grams.word == BEGIN, 0, counts)  # nothing predicts the beginning of a sentence


def discounts_of(counts: np.ndarray) -> tuple[float, float, float] | None:
    """Return what is subtracted from counts of 1, of 2, and of 3 or more; None if they are too few to estimate it."""
    of = [int((counts == k).sum()) for k in range(5)]
    if not all(of[1:]):
        return None
    share = of[1] / (of[1] + 2 * of[2])
    one, two, more = (k - (k + 1) * share * of[k + 1] / of[k] for k in (1, 2, 3))
    return (one, two, more) if 0 < one <= two <= more else None


def smooth(grams: Grams, shorter: Grams | None, counts: np.ndarray, length: int) -> None:
    """Set the probabilities of n-grams, and the backoffs of their contexts.

    Args:
        shorter: the n-grams with a word less; None: these are single words.
        counts: (U,) see :func:`adjusted`.
    """
    discounts = discounts_of(counts)
    if discounts is None:
        discounts = FALLBACK
        logger.info("too little text to estimate the discounts of %d-grams: they are %g, %g, %g", length, *discounts)
    discount = np.array((0.0, *discounts))[np.minimum(counts, 3)]
    contexts = 1 if shorter is None else len(shorter.word)
    total = np.bincount(grams.prefix, counts, contexts)
    left = np.bincount(grams.prefix, discount, contexts)
    left = np.divide(left, total, out=np.ones(contexts), where=total > 0)  # 1: nothing follows the context
    if shorter is None:
        lower = np.where(grams.word == BEGIN, 0, 1 / (len(grams.word) - 1))  # all words are alike, the unknown one too
    else:
        lower = shorter.probabilities[grams.suffix]
        shorter.backoffs = left
    grams.probabilities = (counts - discount) / total[grams.prefix] + left[grams.prefix] * lower


def write_arpa(file: BinaryIO, words: list[str], grams: list[Grams]) -> None:
    """Write a language model as an ARPA file, with decimal logarithms."""
    file.write(b"\\data\\\n" + b"".join(b"ngram %d=%d\n" % (n, len(one.word)) for n, one in enumerate(grams, 1)))
    names = [""]
    for length, these in enumerate(grams, start=1):
        names = [f"{names[prefix]} {words[word]}" for prefix, word in zip(these.prefix, these.word, strict=True)]
        file.write(b"\n\\%d-grams:\n" % length)
        with np.errstate(divide="ignore"):
            scores = np.where(these.probabilities > 0, np.log10(these.probabilities), -99)  # <s>
        for name, score, backoff in zip(names, scores, np.log10(these.backoffs), strict=True):
            weight = "" if length == len(grams) else f"\t{backoff:.7g}"
            file.write(f"{score:.7g}\t{name[1:]}{weight}\n".encode())
    file.write(b"\n\\end\\\n")
