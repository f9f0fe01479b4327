"""The interface of recognizers of any architecture to transcription and evaluation."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from sft_speech.errors import UserError
from sft_speech.inference.chunking import CHUNK_SECONDS
from sft_speech.inference.pieces import POOL, Pooled
from sft_speech.text.languages import language_of
from sft_speech.text.scoring import NormalizerName, Scoring, make_scoring
from sft_speech.text.scripts import has_no_spaces

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.ctc.beam import BeamDecoder
    from sft_speech.tasks.asr.ctc.decoding import Decoding
    from sft_speech.tasks.asr.generation import Generation
    from sft_speech.text.normalize import Normalized


@dataclass(frozen=True)
class Span:
    """A word or a character, and its time, in seconds from the start of the recording.

    Args:
        glued: there is no space between it and the word before.
    """

    text: str
    start: float
    end: float
    glued: bool = False


def text_of(spans: Iterable[Span]) -> str:
    """Return the text of spans together."""
    return "".join(one.text for one in spans)


@dataclass(frozen=True)
class Clip(Pooled):
    """A recording to be recognized.

    Args:
        labels: token ids of its transcript, for the loss.
        language: code of its language, for models of many; None: not known.
    """

    labels: Sequence[int] | None = None
    language: str | None = None


@dataclass(frozen=True)
class Counts:
    """Counts that only one kind of recognizer has, added up over utterances; this one is empty."""

    def __add__(self, other: Self) -> Self:
        if not fields(self) or not fields(other):
            return self if fields(self) else other
        return type(self)(*map(operator.add, astuple(self), astuple(other)))

    def figures(self) -> dict[str, float]:
        """Return the figures for SPLIT.json."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Return the figures that are logged in training."""
        return {}

    def summary(self) -> str:
        """Return the figures for the first line of the table."""
        return ""

    def warning(self, loss_sum: float) -> str:
        """Return a warning about a model with this loss, summed over utterances; "" if there is none."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """The result of recognizing one clip.

    Args:
        text: the transcript.
        seconds: length of the recognized audio.
        loss: sum over labels, in float32; None without labels, or if the clip was cut into chunks.
        problem: why the recording could not be read to its end; "" if it could.
        silent: whether there is no speech in the clip, as the recognizer sees it; None if it cannot tell.
        counts: see :class:`Counts`.
    """

    text: str
    seconds: float
    loss: float | None = None
    problem: str = ""
    silent: bool | None = None
    counts: Counts = field(default_factory=Counts)

    @property
    def language(self) -> str | None:
        """Code of the language that was written; None if the model does not tell."""
        return None

    @property
    def confidence(self) -> float | None:
        """How sure the recognizer is of the text, 0 to 1; None if it does not tell, or wrote nothing."""
        return None

    def confident_words(self) -> tuple[tuple[str, float], ...]:
        """Return the words of :meth:`spans`, which need no times here, and how sure the recognizer is of each."""
        return ()

    def word_confidences(self) -> tuple[float, ...]:
        """Return how sure the recognizer is of each word."""
        return tuple(confidence for _, confidence in self.confident_words())

    def spans(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return the words and the characters of the text with their times."""
        return (), ()


class Recognizer(Protocol):
    """A model with everything that it needs. Its results do not depend on batches."""

    model: PreTrainedModel
    new_weights: list[str]

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""

    @property
    def head_is_new(self) -> bool:
        """Whether the model has yet to be trained to transcribe."""

    @property
    def normalizer(self) -> Callable[[str], Normalized]:
        """Normalizer that writes references as the model writes its hypotheses."""

    @property
    def language(self) -> str | None:
        """Language of its transcripts: "en", "de", "pt_BR"; None if it is not known, or there are several."""

    @property
    def languages(self) -> Collection[str]:
        """Codes of the languages that the recognizer can be set to write; empty if there is no choice."""

    @property
    def default_normalizer(self) -> NormalizerName:
        """Normalizer of its error rates if none is chosen.

        For ordinary text, with case and punctuation, see :func:`~sft_speech.text.scoring.normalizer_for`.
        """

    @property
    def spellings(self) -> Mapping[str, str]:
        """British to American spellings that the checkpoint brings for the normalizer ``whisper``; may be empty."""

    @property
    def search(self) -> dict[str, object]:
        """How it searches for hypotheses, without a decoder, for the figures of an evaluation."""

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Return the labels of a normalized transcript in one of the languages; None: the recognizer's own."""

    def recognize(
        self,
        clips: Iterable[Clip],
        *,
        max_batch_seconds: float | None = None,
        device: torch.device | str | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
        progress: Callable[[float], object] | None = None,
        decoder: BeamDecoder | None = None,
        pool_size: int = POOL,
    ) -> Iterator[Hypothesis | AudioError]:
        """Recognize clips in constant memory.

        Args:
            clips: any number of clips of any length, drawn as needed.
            max_batch_seconds: padded seconds per batch; a longer chunk gets its own batch. None: what suits the device.
            device: device of the forward pass, to which the model is moved; None leaves the model where it is.
            chunk_seconds: longer clips are recognized in overlapping chunks of this length.
            progress: called with the seconds of finished audio.
            decoder: searches with a language model.
            pool_size: chunks that are sorted by length together.

        Yields:
            One result per clip, in the order given: its hypothesis, or why the clip cannot be read.

        Raises:
            UserError: a batch does not fit into memory.
        """

    def with_generation(self, generation: Generation) -> Self:
        """Return the recognizer with options of what it writes; the model is shared.

        Raises:
            UserError: it has no such option, or lacks the language.
        """

    def with_model(self, model: PreTrainedModel) -> Self:
        """Return the recognizer with another form of its model."""

    def decoder_for(self, decoding: Decoding | None) -> BeamDecoder | None:
        """Return a search with a language model; None for the recognizer's own search.

        Raises:
            UserError: the language model does not suit the recognizer.
        """


def scoring_of(recognizer: Recognizer, name: NormalizerName | None = None, spaced: bool | None = None) -> Scoring:
    """Return how the hypotheses of a recognizer are compared with references: under a normalizer, or its default.

    Args:
        spaced: whether there are spaces between words, see :func:`is_spaced`; None: as usual in its language.
    """
    from sft_speech.text.normalize import TranscriptNormalizer

    name, normalizer = name or recognizer.default_normalizer, recognizer.normalizer
    form = normalizer.form if isinstance(normalizer, TranscriptNormalizer) else partial(unicodedata.normalize, "NFC")
    own = lambda text: normalizer(text).text  # noqa: E731
    return make_scoring(name, recognizer.language, own, recognizer.spellings, form, spaced)


def is_spaced(recognizer: Recognizer, references: Iterable[str]) -> bool:
    """Return whether there are spaces between words: by the language, if it is known, and by the references."""
    return language_of(recognizer.language or "").spaced_words and not has_no_spaces(references)


def check_trained(recognizer: Recognizer, name: str | Path) -> None:
    """Check that a recognizer can transcribe.

    Raises:
        UserError: its head is not trained.
    """
    if recognizer.head_is_new:
        why = f"it has no trained weights for {', '.join(recognizer.new_weights[:3])}"
        raise UserError(str(name), why, "fine-tune it: sft-speech finetune-asr")


def default_batch_seconds(device: torch.device) -> float:
    """Return padded seconds per batch that suit a large model in 16 GB of GPU memory, or the caches of a CPU."""
    return 320.0 if device.type == "cuda" else 15.0
