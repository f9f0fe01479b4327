"""Texts written the way a synthesis model can speak them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sft_speech.text.normalize import Normalized, TranscriptNormalizer

# What is said in full though written short: the ones that mean one thing only.
ABBREVIATIONS = {
    "en": {
        "Mr": "mister", "Mrs": "missis", "Ms": "miz", "Dr": "doctor", "Prof": "professor", "Capt": "captain",
        "Col": "colonel", "Gen": "general", "Lt": "lieutenant", "Sgt": "sergeant", "Maj": "major", "Rev": "reverend",
        "Hon": "honorable", "Jr": "junior", "Sr": "senior", "Ltd": "limited", "etc": "et cetera", "vs": "versus",
    },
    "de": {"Hr": "Herr", "Fr": "Frau", "Dr": "Doktor", "Prof": "Professor", "Nr": "Nummer", "usw": "und so weiter"},
    "es": {"Sr": "señor", "Sra": "señora", "Dr": "doctor", "Dra": "doctora"},
    "fr": {"M": "monsieur", "Mme": "madame", "Mlle": "mademoiselle", "Dr": "docteur", "etc": "et cetera"},
}  # fmt: skip
ADDRESS = re.compile(r"(?:https?://|\bwww\.)([^\s,;!?)]*[^\s,;!?).])", re.IGNORECASE)


class SpeakableText:
    """Writes texts in the characters that a model's tokenizer has.

    Numbers, sums of money and symbols are spelt out, titles and addresses of pages said in full; a text in capitals
    only, as LibriSpeech's transcripts, is written in small letters where the tokenizer has both, since a model that has
    read books knows capitals as the first letters of sentences and names. Letters with accents that the tokenizer lacks
    lose them. Punctuation that it has stays, which is what pauses are made of. What it lacks is taken out and counted:
    it would become ``<unk>`` in silence.

    Args:
        tokens: the vocabulary.
        language: of the texts, as num2words names it.
    """

    def __init__(self, tokens: Iterable[str], language: str = "en") -> None:
        self.normalizer = TranscriptNormalizer.for_vocabulary(tokens, language)
        self.has_small = any(character.islower() for character in self.normalizer.alphabet or ())
        short = ABBREVIATIONS.get(language.split("_")[0], {})
        self.long = {key.lower(): value for key, value in short.items()}
        # With its point or before a name: "Mr. Smith", "Mr Smith"; never inside a word.
        names = "|".join(map(re.escape, short))
        self.short = re.compile(rf"\b(?:((?i:{names}))\.|({names})(?=\s+[A-Z]))") if short else None

    def __call__(self, text: str) -> Normalized:
        """One text, and the characters taken out of it."""
        if self.has_small and text.isupper():
            text = text.lower()
        text = ADDRESS.sub(lambda match: match[1].replace(".", " dot ").replace("/", " slash "), text)
        if self.short is not None:
            text = self.short.sub(lambda match: self.long[(match[1] or match[2]).lower()], text)
        return self.normalizer(text)


# The end of a sentence, or a line break: what stands before it is kept together.
SENTENCE_END = re.compile(r"(?<=[.!?;:…。！？])[\"'”’)\]]*\s+|\n+")
CLAUSE_END = re.compile(r"(?<=[,–—-])\s+")


def sentences(text: str) -> list[str]:
    """A text cut at the end of every sentence."""
    return _cut(text, SENTENCE_END)


def split_sentences(text: str, longest: int) -> list[str]:
    """Cuts a text into pieces of at most ``longest`` characters: at sentence ends, else commas, else words.

    Short sentences stay together while they fit, so that each piece has some context. A word longer than ``longest``
    is cut.
    """
    pieces = [text]
    for separator in (SENTENCE_END, CLAUSE_END, re.compile(r"\s+")):
        pieces = [part for piece in pieces for part in (_cut(piece, separator) if len(piece) > longest else [piece])]
        pieces = _joined(pieces, longest)
    return [piece[start : start + longest] for piece in pieces for start in range(0, len(piece), longest)]


def _cut(text: str, separator: re.Pattern[str]) -> list[str]:
    parts, start = [], 0
    for match in separator.finditer(text):
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _joined(pieces: list[str], longest: int) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and len(joined[-1]) + 1 + len(piece) <= longest:
            joined[-1] += " " + piece
        elif piece:
            joined.append(piece)
    return joined
