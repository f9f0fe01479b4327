"""Texts for speech synthesis: normalized, and cut into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sft_speech.text.normalize import Normalized, TranscriptNormalizer

# Abbreviations with one meaning.
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
    """Normalizes texts to the characters of a tokenizer.

    Numbers, sums of money, symbols, abbreviated titles and web addresses are spelled out. A text in capitals only, as
    in LibriSpeech, is lowercased if the tokenizer has both cases, since a model trained on books knows capitals as
    first letters of sentences and names. Letters lose accents that the tokenizer lacks. Punctuation that it has stays:
    pauses depend on it. Other characters that it lacks are removed and counted: they would silently become ``<unk>``.

    Args:
        tokens: the vocabulary.
        language: language of the texts, as num2words names it.
    """

    def __init__(self, tokens: Iterable[str], language: str = "en") -> None:
        self.normalizer = TranscriptNormalizer.for_vocabulary(tokens, language)
        self.has_small = any(character.islower() for character in self.normalizer.alphabet or ())
        short = ABBREVIATIONS.get(language.split("_")[0], {})
        self.long = {key.lower(): value for key, value in short.items()}
        # With a period or before a name ("Mr. Smith", "Mr Smith"), never inside a word.
        names = "|".join(map(re.escape, short))
        self.short = re.compile(rf"\b(?:((?i:{names}))\.|({names})(?=\s+[A-Z]))") if short else None

    def __call__(self, text: str) -> Normalized:
        """Return a normalized text, and the characters that were removed."""
        if self.has_small and text.isupper():
            text = text.lower()
        text = ADDRESS.sub(lambda match: match[1].replace(".", " dot ").replace("/", " slash "), text)
        if self.short is not None:
            text = self.short.sub(lambda match: self.long[(match[1] or match[2]).lower()], text)
        return self.normalizer(text)


SENTENCE_END = re.compile(r"(?<=[.!?;:…。！？])[\"'”’)\]]*\s+|\n+")
SPACE = re.compile(r"\s+")
CLAUSE_END = re.compile(r"(?<=[,–—-])\s+")


def sentences(text: str) -> list[str]:
    """Cut a text at the end of every sentence, and at line breaks."""
    return _cut(text, SENTENCE_END)


def split_sentences(text: str, longest: int) -> list[str]:
    """Cut a text into pieces of at most ``longest`` characters: at ends of sentences, or else commas, or else words.

    Short sentences stay together while they fit, for context. Pieces that end between words are of similar lengths. A
    word longer than ``longest`` is cut.
    """
    pieces = [text]
    for separator in (SENTENCE_END, CLAUSE_END):
        pieces = [part for piece in pieces for part in (_cut(piece, separator) if len(piece) > longest else [piece])]
        pieces = _joined(pieces, longest)
    pieces = [part for piece in pieces for part in _evenly(piece, longest)]
    return [piece[start : start + longest] for piece in pieces for start in range(0, len(piece), longest)]


def _cut(text: str, separator: re.Pattern[str]) -> list[str]:
    parts, start = [], 0
    for match in separator.finditer(text):
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _evenly(piece: str, longest: int) -> list[str]:
    """Cut a piece between words into as few parts as possible, of similar lengths."""
    words, fewest = _cut(piece, SPACE), _joined(_cut(piece, SPACE), longest)
    widths = range(len(piece) // max(len(fewest), 1), longest)
    return next((even for width in widths if len(even := _joined(words, width)) == len(fewest)), fewest)


def _joined(pieces: list[str], longest: int) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and len(joined[-1]) + 1 + len(piece) <= longest:
            joined[-1] += " " + piece
        elif piece:
            joined.append(piece)
    return joined
