"""Numbers and symbols that a normalizer leaves as they are, because it has no words for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sft_speech.text.codes import name_of
from sft_speech.text.languages import LANGUAGES
from sft_speech.text.markup import WithoutMarks
from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.text.numbers import CURRENCIES

logger = logging.getLogger(__name__)

NUMBERS = r"\p{Nd}\p{No}" + "".join(CURRENCIES)  # in a set of characters of RE2
SHOWN = 60  # characters of the first transcript


@dataclass(frozen=True)
class Unspelt:
    """The characters that a normalizer leaves as they are.

    Args:
        pattern: regular expression (RE2) of one of them.
        why: why they are not spelled out.
        do: what to do about it.
    """

    pattern: str
    why: str
    do: str

    def count(self, texts: Sequence[Any]) -> int:
        """Return how many texts have such characters."""
        return _found(self.pattern, texts)[0]

    def summary(self, ids: Sequence[Any], texts: Sequence[Any]) -> str:
        """Return a line on the rows with such characters: their number and the first of them; "" if there are none."""
        rows, first = _rows(self.pattern, ids, texts)
        return rows and f"{rows} that are not spelled out, because {self.why}: {self.do}; {first}"


def unspelt_by(normalize: object) -> Unspelt | None:
    """Return what a normalizer of transcripts leaves as it is; None if it spells out everything, or keeps texts as
    they are written.
    """
    if isinstance(normalize, WithoutMarks):
        normalize = normalize.normalize
    if not isinstance(normalize, TranscriptNormalizer):
        return None
    alphabet, language = normalize.alphabet or frozenset(), normalize.language
    # Words of a vocabulary with digits are not spelled out in any language.
    digits = "" if normalize.spells_numbers or alphabet.issuperset("0123456789") else NUMBERS
    symbols = "" if language else "".join(sorted(LANGUAGES["en"].symbols.keys() - alphabet))
    if not digits and not symbols:
        return None
    why, do = "their language is not known", "give it, such as --language de"
    if language:
        why, do = f"there are no words for numbers in {name_of(language) or language}", "write them in words"
    return Unspelt(f"[{digits}{symbols}]", why, do)


def warn_of_unspelt(normalize: object, split: str, ids: Sequence[Any], texts: Sequence[Any]) -> None:
    """Log a warning about the rows of a split whose numbers or symbols a normalizer leaves as they are."""
    unspelt = unspelt_by(normalize)
    if summary := unspelt.summary(ids, texts) if unspelt else "":
        logger.warning("%s: %s", split, summary)


def log_spelling(normalize: object, split: str, ids: Sequence[Any], texts: Sequence[Any]) -> None:
    """Log which rows have numbers that are spelled out in a language that no option names."""
    if isinstance(normalize, TranscriptNormalizer) and normalize.spells_numbers:
        rows, first = _rows(f"[{NUMBERS}]", ids, texts)
        if rows:
            language = name_of(normalize.language or "") or normalize.language
            do = "--language names another one"
            logger.info(
                "%s: %s, spelled out in %s, which the checkpoint writes: %s; %s", split, rows, language, do, first
            )


def _rows(pattern: str, ids: Sequence[Any], texts: Sequence[Any]) -> tuple[str, str]:
    """Return how many transcripts match, and the first of them; "" and "" if none does."""
    count, first = _found(pattern, texts)
    if not count:
        return "", ""
    id, text = (str(values[first]) for values in (ids, texts))
    shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
    return f"{count:,} of {len(texts):,} transcripts have numbers or symbols", f"the first is {id}: “{shown}”"


def _found(pattern: str, texts: Sequence[Any]) -> tuple[int, int]:
    """Return how many texts match, and the index of the first; -1 if there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = texts if isinstance(texts, pa.ChunkedArray) else pa.array(texts, pa.string())
    found = pc.match_substring_regex(column, pattern)
    return pc.sum(found).as_py() or 0, pc.index(found, True).as_py()
