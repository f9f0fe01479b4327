"""Transcripts to the labels of a sequence-to-sequence model and back.

A Whisper's decoder begins with tokens that say what it writes: ``<|startoftranscript|><|de|><|transcribe|>`` and
``<|notimestamps|>``. They are its *prefix*, given and not learned; the *labels* follow, including the end of the text.
Models of other families begin with one token, and that of the language if they write several.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sft_speech.corpora.select import Reason
from sft_speech.errors import UserError
from sft_speech.tasks.asr.generation import Action
from sft_speech.tasks.asr.languages import code_of, language_reason
from sft_speech.text.languages import language_of
from sft_speech.text.normalize import Normalized, TranscriptNormalizer
from sft_speech.text.scripts import foreign_script

START, NO_TIMESTAMPS, PREVIOUS = "<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>"
TIMESTAMP_SECONDS = 0.02  # from one timestamp token to the next (Radford et al. 2022, section 2.3)


@dataclass(frozen=True)
class AsWritten:
    """Keeps transcripts as they are written, apart from white space and the form of Unicode (NFC).

    Args:
        lower_case: write them in lower case.
        language: code of their language; None: not known.
    """

    lower_case: bool = False
    language: str | None = None

    def __call__(self, text: str) -> Normalized:
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        return Normalized(text.lower() if self.lower_case else text)

    def in_language(self, language: str | None) -> AsWritten:
        """Return the same normalizer for another language."""
        return replace(self, language=language)


def normalizer_of(tokenizer: Any, lower_case: bool, language: str | None) -> AsWritten | TranscriptNormalizer:
    """Return the normalizer of transcripts for a tokenizer: they are kept as written if it can encode any text.

    Args:
        lower_case: write them in lower case.
        language: code of their language; None: not known.
    """
    if tokenizer.unk_token_id not in tokenizer("\ue000", add_special_tokens=False).input_ids:
        return AsWritten(lower_case, language)
    normalizer = TranscriptNormalizer.for_vocabulary(tokenizer.get_vocab(), language)
    return TranscriptNormalizer(set(normalizer.alphabet or ()), "lower", language) if lower_case else normalizer


@dataclass(frozen=True)
class Transcripts:
    """The tokenizer of a model, and what its decoder begins with.

    Args:
        tokenizer: tokenizer of the checkpoint.
        start: the token that the decoder begins with.
        end: the token that ends a text; padding has the same id in a Whisper.
        languages: tokens of languages by their code ("de"); empty for a model of one language.
        normalizer: writes transcripts as the model is trained to.
        language: code of the language that is written unless another one is given; None: not known.
    """

    tokenizer: Any
    start: int
    end: int
    languages: dict[str, int] = field(default_factory=dict)
    normalizer: AsWritten | TranscriptNormalizer = AsWritten()
    language: str | None = None

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of the tokens of a Whisper by name; empty for other families."""
        vocabulary = self.tokenizer.get_vocab()
        return {name: id for name, id in vocabulary.items() if name.startswith("<|")} if START in vocabulary else {}

    @property
    def first_timestamp(self) -> int | None:
        """Id of ``<|0.00|>``; None if the model has no timestamps. Saved tokenizers often lack these tokens."""
        return self.special[NO_TIMESTAMPS] + 1 if NO_TIMESTAMPS in self.special else None

    def prefix(self, language: str | None = None, action: Action = "transcribe", timestamps: bool = False) -> list[int]:
        """Return the tokens that the decoder begins with.

        Args:
            language: as `code_of` takes it; None: that of the transcripts.
            action: what to write, in a model of many languages.
            timestamps: write the times of segments.

        Raises:
            UserError: the language is not known, or the model lacks it.
        """
        tokens = [self.start]
        if self.languages:
            tokens.append(self.language_token(language or self.language))
        if self.languages and self.special:
            tokens.append(self.special[f"<|{action}|>"])
        if self.special and not timestamps:
            tokens.append(self.special[NO_TIMESTAMPS])
        return tokens

    def language_token(self, language: str | None) -> int:
        """Return the token of a language, as `code_of` takes it.

        Raises:
            UserError: there is none.
        """
        if language is None:
            why = "the model writes many languages and does not detect them"
            raise UserError("no language", why, "set it, for example `language: de` or --language de")
        code = code_of(language, self.languages)
        if code is None:
            known = ", ".join(sorted(self.languages))
            raise UserError(f"language {language}", "the model has no token for it", f"choose one of {known}")
        return self.languages[code]

    def encode(self, text: str, language: str | None = None, times: tuple[float, float] | None = None) -> list[int]:
        """Return the labels of a transcript, its end included.

        Args:
            language: as `code_of` takes it; None: that of the transcripts.
            times: where the text begins and ends in the audio, in seconds, to be written before and after it.
        """
        # A Whisper begins words with a space, the first one too.
        spaced = self.special and language_of(self.code(language) or "en").spaced_words
        ids = self.tokenizer(f" {text}" if spaced else text, add_special_tokens=False).input_ids
        if times is not None:
            ids = [self.timestamp(times[0]), *ids, self.timestamp(times[1])]
        return [*ids, self.end]

    def code(self, language: str | None) -> str | None:
        """Return the code of a row's language; None: that of the transcripts, if it is known."""
        return code_of(language, self.languages) if language and self.languages else self.language

    def why_unusable(self, text: str, language: str | None = None) -> Reason | None:
        """Return why a transcript cannot be learned: the model lacks its language, or it is in another script.

        Args:
            language: language of the row, "" if it has none; None if the corpus has no column of languages.
        """
        if language is not None and self.languages and (reason := language_reason(language, self.languages)):
            return reason
        code = self.code(language)
        script = foreign_script(text, code) if code else None
        return ("another script", f"{script}, its language is {code}") if script else None

    def timestamp(self, seconds: float) -> int:
        """Return the token of a time, rounded to 20 ms."""
        if self.first_timestamp is None:
            raise ValueError("the model has no timestamps")
        return self.first_timestamp + round(seconds / TIMESTAMP_SECONDS)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, without special ones and timestamps."""
        return " ".join(self.raw(ids).split())

    def raw(self, ids: Iterable[int]) -> str:
        """Return the text of tokens as the tokenizer writes it; it grows from token to token."""
        own: Sequence[int] = [id for id in ids if not self.special or id < self.end]
        text: str = self.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
