"""Normalizers for error rates, by name. Only rates under the same normalizer can be compared.

- ``whisper``: OpenAI's for English. Case, punctuation, fillers, contractions, numbers in words or digits and, if the
  checkpoint has the table for it, British or American spelling do not matter.
- ``basic``: OpenAI's for other languages: case and punctuation do not matter.
- ``none``: the texts as they are written.
- ``checkpoint``: references written in the characters of the model's vocabulary, hypotheses as they are.

Both of OpenAI's are those of transformers (Radford et al. 2022, appendix C).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sft_speech.text.languages import language_of

NormalizerName = Literal["whisper", "basic", "none", "checkpoint"]


@dataclass(frozen=True)
class Scoring:
    """How references and hypotheses are compared.

    Args:
        name: the normalizer's name, as figures record it.
        reference, hypothesis: normalize a text.
        spaced: there are spaces between words; if not, each letter counts as a word.
    """

    name: str
    reference: Callable[[str], str]
    hypothesis: Callable[[str], str]
    spaced: bool = True

    def words(self, text: str) -> str:
        """Return a text with spaces between what the word error rate counts."""
        return words_of(text, self.spaced)


def words_of(text: str, spaced: bool) -> str:
    """Return a text with spaces between its words; between its letters if words have none."""
    return squeezed(text) if spaced else " ".join(split_letters(text))


def normalizer_for(language: str | None) -> NormalizerName:
    """Return the usual normalizer for ordinary text in a language: "en", "de", "en_IN"; None if it is not known."""
    return "whisper" if is_english(language) else "basic"


def make_scoring(
    name: NormalizerName, language: str | None, own: Callable[[str], str], spellings: Mapping[str, str]
) -> Scoring:
    """Return the comparison of texts in a language under a normalizer.

    Args:
        own: writes a reference in the characters of the model, for ``checkpoint``.
        spellings: British to American spellings, for ``whisper``; without them, the recorded name says so.
    """
    if name == "checkpoint":
        return Scoring(name, own, str)
    if name == "whisper":
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        english = EnglishTextNormalizer(dict(spellings))
        return _both(name if spellings else "whisper without spellings", lambda text: squeezed(english(text)))
    spaced = language_of(language or "").spaced_words
    recorded = name if spaced else f"{name}, letters split"
    if name == "none":
        return _both(recorded, squeezed, spaced)
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    basic, space = BasicTextNormalizer(), " " if spaced else ""
    return _both(recorded, lambda text: space.join(basic(text).split()), spaced)


def _both(name: str, normalize: Callable[[str], str], spaced: bool = True) -> Scoring:
    return Scoring(name, normalize, normalize, spaced)


def is_english(language: str | None) -> bool:
    return (language or "").replace("-", "_").split("_")[0] == "en"


def squeezed(text: str) -> str:
    """Return a text with single spaces, and none at its ends."""
    return " ".join(text.split())


def split_letters(text: str) -> list[str]:
    """Return the letters of a text with their marks, without spaces."""
    found: list[str] = []
    for character in "".join(text.split()):
        if found and unicodedata.category(character)[0] == "M":
            found[-1] += character
        else:
            found.append(character)
    return found


def has_marks(text: str) -> bool:
    """Return whether a text has marks that are characters of their own, as the vowel signs of Hindi are.

    ``basic`` puts a space in the place of each, which cuts words.
    """
    return any(unicodedata.category(character)[0] == "M" for character in unicodedata.normalize("NFKC", text))
