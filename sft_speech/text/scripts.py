"""The scripts of languages, to find transcripts that are in another language than the corpus says."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import islice

# The languages that are written in a script, by their codes. A language that is in no line is written in Latin letters.
SCRIPTS = {
    "ARABIC": "ar fa ha kk ms pa ps sd tg ur uz",
    "ARMENIAN": "hy",
    "BENGALI": "as bn",
    "BOPOMOFO": "yue zh",
    "CJK": "ja ko yue zh",
    "CYRILLIC": "az ba be bg bs kk mk mn ru sr tg tk tt uk uz",
    "DEVANAGARI": "hi mr ne sa sd",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "HIRAGANA": "ja",
    "KANNADA": "kn",
    "KATAKANA": "ja",
    "KHMER": "km",
    "LAO": "lo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "TIBETAN": "bo",
}
# Scripts of languages without spaces between words
UNSPACED = frozenset("BOPOMOFO CJK HIRAGANA KATAKANA KHMER LAO MYANMAR THAI TIBETAN".split())
LETTERS_PER_SPACE = 8  # in a text of such a script with fewer, there are spaces between words after all
SAMPLED = 2000  # texts that are looked at

WRITTEN_IN = {script: frozenset(codes.split()) for script, codes in SCRIPTS.items()}
NOT_LATIN = "\u0370"  # the first letter of another script


def foreign_script(text: str, language: str) -> str | None:
    """Return the script of most letters of a text if its language is not written in it, otherwise None.

    Latin letters are never foreign, since names and romanized corpora are written in them. Nor is a script that is not
    in :data:`SCRIPTS`: it may belong to a new language that is trained under the code of a known one.

    Args:
        language: its code, such as "de".
    """
    if not text or max(text) < NOT_LATIN:
        return None
    letters = [character for character in text if character.isalpha()]
    counts = Counter(script for script in map(script_of, letters) if script and language not in WRITTEN_IN[script])
    return counts.most_common(1)[0][0].capitalize() if 2 * counts.total() > len(letters) else None


@cache
def script_of(letter: str) -> str | None:
    """Return the script of a letter among those of :data:`SCRIPTS`."""
    name = unicodedata.name(letter, "").split(" ")[0]
    return name if name in SCRIPTS else None


def has_no_spaces(texts: Iterable[str]) -> bool:
    """Return whether texts are in a script without spaces between words, and have hardly any."""
    counts = Counter("".join(islice(texts, SAMPLED)))
    letters = {character: count for character, count in counts.items() if character.isalpha()}
    unspaced = sum(count for letter, count in letters.items() if is_unspaced(letter))
    return 2 * unspaced > sum(letters.values()) and counts[" "] * LETTERS_PER_SPACE < unspaced


def is_unspaced(letter: str) -> bool:
    """Return whether a letter belongs to a script without spaces between words."""
    return letter >= NOT_LATIN and letter.isalpha() and script_of(letter) in UNSPACED


def most_common_script(counts: Counter[str]) -> str:
    """Return the script of most letters by the first word of their names: "Cyrillic", "Arabic"; "some" without any."""
    scripts: Counter[str] = Counter()
    for character, count in counts.items():
        if character.isalpha():
            scripts[unicodedata.name(character, "some").split(" ")[0]] += count
    return scripts.most_common(1)[0][0].capitalize() if scripts else "some"
