"""The result of recognition by a sequence-to-sequence model: the text, its tokens and their times, and counts."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.tasks.asr.recognizer import Counts, Hypothesis, Span, text_of

if TYPE_CHECKING:
    from sft_speech.tasks.asr.seq2seq.transcripts import Transcripts

UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character
CUT_SHARE = 0.02  # share of windows cut at their bound that is worth a warning


@dataclass(frozen=True)
class Seq2SeqCounts(Counts):
    """Counts of the windows of recordings.

    Args:
        windows: windows that were recognized.
        tokens: tokens of their texts.
        logprob: sum of the log-probabilities of the tokens and of the ends of the texts.
        cut: windows whose text was cut at the limit of tokens for their length.
        silent: windows without speech.
        retried: windows whose text was sampled at a higher temperature.
    """

    windows: int = 0
    tokens: int = 0
    logprob: float = 0.0
    cut: int = 0
    silent: int = 0
    retried: int = 0

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of a token."""
        return self.logprob / max(self.tokens + self.windows, 1)

    def figures(self) -> dict[str, float]:
        return {
            "mean_logprob": self.mean_logprob,
            "endless": self.cut,
            "silent_windows": self.silent,
            "retried_windows": self.retried,
        }

    def summary(self) -> str:
        return f"{self.cut} of {self.windows} texts without an end" if self.cut else ""

    def warning(self, loss_sum: float) -> str:
        if self.cut <= CUT_SHARE * self.windows:
            return ""
        return (
            f"{self.cut} of {self.windows} texts were cut because they did not end: the model repeats itself "
            "(expected before training; otherwise try --temperature_fallback with evaluate or transcribe)"
        )


@dataclass(frozen=True, eq=False)
class Segment:
    """What the model wrote for one window of a recording; N tokens.

    Args:
        tokens: (N,) ids, without the prefix and the end.
        logprobs: (N,) their log-probabilities.
        avg_logprob: mean log-probability of the tokens and of the end.
        no_speech_prob: probability that there is no speech; None if the model does not tell.
        text: "" if there is no speech.
        start, seconds: the window in the recording.
        starts, ends: (N,) times of the tokens within the window, in seconds; None if they were not computed.
        language: language of the speech; None: not known.
        spaced: whether the text has spaces between words; a translation is in English, whatever the language.
        temperature: 0 unless the text was sampled.
        cut: whether the text was cut at the limit of tokens for the length of the window.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    avg_logprob: float
    no_speech_prob: float | None
    text: str
    start: float
    seconds: float
    starts: np.ndarray | None = None
    ends: np.ndarray | None = None
    language: str | None = None
    temperature: float = 0.0
    cut: bool = False
    spaced: bool = True

    @property
    def silent(self) -> bool:
        """Whether the window holds no speech, or none that the model understands."""
        return not self.text

    def counts(self) -> Seq2SeqCounts:
        return Seq2SeqCounts(
            windows=1,
            tokens=len(self.tokens),
            logprob=self.avg_logprob * (len(self.tokens) + 1),
            cut=int(self.cut),
            silent=int(self.silent),
            retried=int(self.temperature > 0),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Writing(Hypothesis):
    """The recognition of one clip by a sequence-to-sequence model.

    Args:
        segments: what was written for each window, in order.
        transcripts: the tokenizer.
    """

    segments: tuple[Segment, ...]
    transcripts: Transcripts

    @property
    def tokens(self) -> np.ndarray:
        """(N,) ids of the tokens of all windows."""
        return np.concatenate([segment.tokens for segment in self.segments])

    @property
    def logprobs(self) -> np.ndarray:
        """(N,) log-probabilities of the tokens."""
        return np.concatenate([segment.logprobs for segment in self.segments])

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability of the tokens and of the ends of the windows."""
        return sum((segment.counts() for segment in self.segments), Seq2SeqCounts()).mean_logprob

    @property
    def confidence(self) -> float | None:
        """exp of the mean log-probability of the tokens and of the ends of the windows that have a text."""
        written = sum((segment.counts() for segment in self.segments if not segment.silent), Seq2SeqCounts())
        return math.exp(written.mean_logprob) if self.text else None

    def confident_words(self) -> tuple[tuple[str, float], ...]:
        """Return each word and exp of the mean log-probability of its tokens, without those of marks beside it."""
        return tuple(
            (text_of(word), math.exp(segment.logprobs[sorted(tokens)].mean()))
            for segment, words in zip(self.segments, self._words, strict=True)
            for word, tokens in words
        )

    @cached_property
    def _words(self) -> list[list[tuple[list[Span], set[int]]]]:
        """The words of each window, and the places of their tokens."""
        return [list(grouped(segment, self.transcripts, segment.spaced)) for segment in self.segments]

    @property
    def no_speech_prob(self) -> float | None:
        """Lowest probability, among the windows, that there is no speech; None if the model does not tell."""
        given = [segment.no_speech_prob for segment in self.segments if segment.no_speech_prob is not None]
        return min(given, default=None)

    @property
    def compression_ratio(self) -> float:
        """See :func:`compression_ratio`."""
        return compression_ratio(self.text)

    @property
    def language(self) -> str | None:
        """The language of most of the recording; None if it is not known."""
        seconds: Counter[str] = Counter()
        for segment in self.segments:
            if segment.language and segment.text:
                seconds[segment.language] += segment.seconds  # type: ignore[assignment]  # a Counter of floats
        return seconds.most_common(1)[0][0] if seconds else self.segments[0].language

    def spans(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return words and characters, whose times increase and stay within their window.

        The characters of a token share its time evenly.
        """
        words: list[Span] = []
        characters: list[Span] = []
        for segment, found in zip(self.segments, self._words, strict=True):
            for word, _ in found if segment.starts is not None else ():
                if characters and segment.spaced:
                    characters.append(Span(" ", characters[-1].end, max(characters[-1].end, word[0].start)))
                characters.extend(word)
                words.append(Span(text_of(word), word[0].start, word[-1].end, word[0].glued))
        return tuple(words), tuple(characters)


def words_of(segment: Segment, transcripts: Transcripts, spaced: bool) -> Iterator[list[Span]]:
    """Yield the characters of each word of a window, with their times in the recording.

    Args:
        spaced: words are separated by spaces; otherwise each token is one, together with the signs after it.
    """
    if segment.starts is not None:
        for word, _ in grouped(segment, transcripts, spaced):
            yield word


def grouped(segment: Segment, transcripts: Transcripts, spaced: bool) -> Iterator[tuple[list[Span], set[int]]]:
    """Yield the characters of each word, as :func:`words_of`, and the places of its tokens.

    The tokens of a word are those that have a letter or digit of it, or all of them if none does. Without times,
    characters have those of the window.
    """
    if segment.silent:
        return
    nothing = np.zeros(len(segment.tokens))
    starts, ends = (nothing if times is None else times for times in (segment.starts, segment.ends))
    word: list[Span] = []
    spoken_tokens, marks = set[int](), set[int]()
    for piece, tokens in pieces(transcripts, segment.tokens.tolist()):
        start, end = float(starts[tokens[0]]), float(ends[tokens[-1]])
        spoken = any(map(str.isalnum, piece))
        # A mark takes no time: the pause after a word would be part of it.
        share = (end - start) / max(len("".join(piece.split())), 1) if spoken else 0.0
        glued = True
        if word and not spaced and spoken:
            yield word, spoken_tokens or marks
            word, spoken_tokens, marks = [], set(), set()
        at = segment.start + start
        for character in piece:
            if not character.isspace():
                word.append(Span(character, at, at + share, glued=not spaced and not word and glued))
                (spoken_tokens if spoken else marks).update(tokens)
                at += share
            else:
                glued = False
                if word:
                    yield word, spoken_tokens or marks
                    word, spoken_tokens, marks = [], set(), set()
    if word:
        yield word, spoken_tokens or marks


def pieces(transcripts: Transcripts, tokens: list[int]) -> Iterator[tuple[str, range]]:
    """Yield the text that each token adds, and its place; tokens that share a character are one piece."""
    written, first = "", 0
    for number in range(len(tokens)):
        text = transcripts.raw(tokens[: number + 1])
        if text.endswith(UNFINISHED) and number + 1 < len(tokens):
            continue
        if len(text) > len(written):
            yield text[len(written) :], range(first, number + 1)
        written, first = text, number + 1


def compression_ratio(text: str) -> float:
    """Return how many times shorter zlib makes a text: above 2.4 it repeats itself (Radford et al. 2022, 4.5)."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))
