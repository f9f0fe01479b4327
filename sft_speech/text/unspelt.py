"""Numbers and symbols that a normalizer leaves as they are, because it has no words for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sft_speech.text.codes import name_of
from sft_speech.text.languages import LANGUAGES
from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.text.numbers import CURRENCIES

logger = logging.getLogger(__name__)

_MONEY = "".join(CURRENCIES)
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

    def count(self, texts: Sequence[Any]) -> tuple[int, int]:
        """Return how many texts have such characters, and the index of the first; -1 if there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = texts if isinstance(texts, pa.ChunkedArray) else pa.array(texts, pa.string())
        found = pc.match_substring_regex(column, self.pattern)
        return pc.sum(found).as_py() or 0, pc.index(found, True).as_py()

    def summary(self, ids: Sequence[Any], texts: Sequence[Any]) -> str:
        """Return a line on the rows with such characters: their number and the first of them; "" if there are none."""
        count, first = self.count(texts)
        if not count:
            return ""
        id, text = (str(values[first]) for values in (ids, texts))
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
        rows = f"{count:,} of {len(texts):,} transcripts have numbers or symbols that are not spelled out"
        return f"{rows}, because {self.why}: {self.do}; the first is {id}: “{shown}”"


def unspelt_by(normalize: object) -> Unspelt | None:
    """Return what a normalizer of transcripts leaves as it is; None if it spells out everything, or keeps texts as
    they are written.
    """
    if not isinstance(normalize, TranscriptNormalizer):
        return None
    alphabet, language = normalize.alphabet or frozenset(), normalize.language
    # Words of a vocabulary with digits are not spelled out in any language.
    digits = "" if normalize.spells_numbers or alphabet.issuperset("0123456789") else rf"\p{{Nd}}\p{{No}}{_MONEY}"
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
