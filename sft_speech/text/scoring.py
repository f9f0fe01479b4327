"""Normalizers for error rates, by name. Only rates under the same normalizer can be compared.

- ``whisper``: OpenAI's for English. Case, punctuation, fillers, contractions, numbers in words or digits and, if the
  checkpoint has the table for it, British or American spelling do not matter.
- ``basic``: OpenAI's for other languages: case and punctuation do not matter.
- ``none``: the texts as they are written.
- ``checkpoint``: references written in the characters of the model's vocabulary, hypotheses as they are.

Both of OpenAI's are those of transformers (Radford et al. 2022, appendix C). Under all of them, both texts are in one
form of Unicode (NFC, or that of the vocabulary), and under OpenAI's all apostrophes are the same sign.

Where words have no spaces between them, each letter counts as a word, and spaces do not count (but under ``none``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sft_speech.text.languages import language_of
from sft_speech.text.normalize import APOSTROPHES

NormalizerName = Literal["whisper", "basic", "none", "checkpoint"]


@dataclass(frozen=True)
class Scoring:
    """How references and hypotheses are compared.

    Args:
        name: the normalizer's name, as figures record it.
        reference, hypothesis: normalize a text.
        spaced: there are spaces between words; if not, each letter counts as a word.
        own: references are written in the characters of the model.
    """

    name: str
    reference: Callable[[str], str]
    hypothesis: Callable[[str], str]
    spaced: bool = True
    own: bool = False

    def words(self, text: str) -> str:
        """Return a text with spaces between what the word error rate counts."""
        return words_of(text, self.spaced)


def words_of(text: str, spaced: bool) -> str:
    """Return a text with spaces between its words; between its letters if words have none."""
    text = unicodedata.normalize("NFC", text)
    return squeezed(text) if spaced else " ".join(split_letters(text))


def normalizer_for(language: str | None) -> NormalizerName:
    """Return the usual normalizer for ordinary text in a language: "en", "de", "en_IN"; None if it is not known."""
    return "whisper" if is_english(language) else "basic"


def make_scoring(
    name: NormalizerName,
    language: str | None,
    own: Callable[[str], str],
    spellings: Mapping[str, str],
    form: Callable[[str], str] = str,
    spaced: bool | None = None,
) -> Scoring:
    """Return the comparison of texts in a language under a normalizer.

    Args:
        own: writes a reference in the characters of the model, for ``checkpoint``.
        spellings: British to American spellings, for ``whisper``; without them, the recorded name says so.
        form: writes a hypothesis in the form of Unicode that references have, for ``checkpoint``.
        spaced: whether there are spaces between words; None: as usual in the language.
    """
    if spaced is None:
        spaced = language_of(language or "").spaced_words
    recorded = name if spaced else f"{name}, letters split"
    space = " " if spaced else ""
    if name == "checkpoint":
        if spaced:
            return Scoring(recorded, own, form, own=True)
        joined = (lambda text: "".join(own(text).split()), lambda text: "".join(form(text).split()))
        return Scoring(recorded, *joined, spaced=False, own=True)
    if name == "whisper":
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        english = EnglishTextNormalizer(dict(spellings))
        recorded = name if spellings else "whisper without spellings"
        return _both(recorded, lambda text: squeezed(english(one_form(text))))
    if name == "none":
        return _both(recorded, lambda text: squeezed(unicodedata.normalize("NFC", text)), spaced)
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    basic = BasicTextNormalizer()
    return _both(recorded, lambda text: space.join(basic(one_form(text)).split()), spaced)


def _both(name: str, normalize: Callable[[str], str], spaced: bool = True) -> Scoring:
    return Scoring(name, normalize, normalize, spaced)


def one_form(text: str) -> str:
    """Return a text in NFC, with one sign for apostrophes."""
    return text if text.isascii() else unicodedata.normalize("NFC", text).translate(APOSTROPHES)


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
