"""How languages write numbers and symbols: one row for each that differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Language:
    """The writing conventions of a language.

    Args:
        symbols: the words for symbols.
        decimal_point: it writes 3.5 where others write 3,5.
        spaced_thousands: it writes 10 000.
        spaced_words: it writes spaces between words.
        ordinal: pattern of the endings that turn a number into an ordinal.
        year: pattern of years that are read in hundreds.
        float_decimals: num2words loses the decimals of a string (``num2words("3,5", "it")`` is "tre") or refuses it.
        dotless_i: it has two letters i: I and ı, İ and i.
    """

    symbols: Mapping[str, str] = field(default_factory=dict)
    decimal_point: bool = False
    spaced_thousands: bool = False
    spaced_words: bool = True
    ordinal: str = ""
    year: str = "(?!)"
    float_decimals: bool = False
    dotless_i: bool = False


_ENGLISH = {
    "&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at", "°": "degrees", "#": "number", "×": "times",
    "÷": "divided by",
}  # fmt: skip
_GERMAN = {"&": "und", "%": "Prozent", "+": "plus", "=": "gleich", "@": "at", "°": "Grad", "×": "mal"}
_SPANISH = {"&": "y", "%": "por ciento", "+": "más", "=": "igual a", "@": "arroba", "×": "por"}
_FRENCH = {"&": "et", "%": "pour cent", "+": "plus", "=": "égale", "@": "arobase", "×": "fois"}

LANGUAGES = {
    "en": Language(_ENGLISH, decimal_point=True, ordinal="st|nd|rd|th", year=r"1[1-9]\d\d|20[1-9]\d"),
    "de": Language(_GERMAN, year=r"1[1-9]\d\d"),
    "es": Language(_SPANISH, spaced_thousands=True),
    **dict.fromkeys(
        "es_DO es_GT es_HN es_MX es_NI es_PA es_PE es_PR es_SV es_US".split(),
        Language(_SPANISH, decimal_point=True, spaced_thousands=True),
    ),
    "fr": Language(_FRENCH, spaced_thousands=True, ordinal="er|e|è?me"),
    "da": Language(year=r"1[1-9]\d\d"),
    "az": Language(dotless_i=True),
    "tr": Language(dotless_i=True),
    **dict.fromkeys("ja km lo my th yue zh".split(), Language(decimal_point=True, spaced_words=False)),
    **dict.fromkeys("bn gu he hi kn ko ml mr ta te ur".split(), Language(decimal_point=True)),
    **dict.fromkeys("cs fi no pl ru sk sv uk".split(), Language(spaced_thousands=True)),
    **dict.fromkeys("ce cy fa id it vi".split(), Language(float_decimals=True)),
}


def language_of(code: str | None) -> Language:
    """Return the conventions of a language by its code: ``en``, ``en_IN``, ``en-IN``; the defaults for None."""
    code = (code or "").replace("-", "_")
    return LANGUAGES.get(code) or LANGUAGES.get(code.partition("_")[0], Language())
