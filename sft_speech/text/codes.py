"""Codes of languages: one for each language, however it is given.

The code is that of BCP 47 (``de``, ``yue``), of the macrolanguage if there is one (``zh`` for ``cmn``, ``no`` for
``nb``), followed by a country only where numbers are read in another way there (``pt_BR``). Models may call a language
otherwise: Whisper writes ``jw`` for Javanese, MMS ``deu`` for German; :func:`choose` finds it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from functools import cache, lru_cache

from sft_speech.errors import UserError
from sft_speech.text.languages import LANGUAGES

UNDETERMINED = frozenset({"", "mis", "mul", "und", "zxx"})  # registered, but no language
# Codes in place of those that langcodes prefers, and of num2words's own for Kazakh.
PREFERRED = {"nb": "no", "fil": "tl", "kz": "kk"}
# Names that the registry lacks: some of Whisper's, and what the largest languages call themselves.
NAMES = {
    "greek": "el", "mandarin": "zh", "myanmar": "my", "nynorsk": "nn",
    "deutsch": "de", "español": "es", "français": "fr", "italiano": "it", "nederlands": "nl", "polski": "pl",
    "português": "pt", "türkçe": "tr", "русский": "ru", "українська": "uk",
    "العربية": "ar", "हिन्दी": "hi", "中文": "zh", "日本語": "ja", "한국어": "ko",
}  # fmt: skip
_EXTENSION = re.compile(r"[.@].*|-(?:script|dialect)_.*")  # de_DE.UTF-8; of MMS: uzb-script_latin


@lru_cache(maxsize=1 << 12)
def known_code(given: str) -> str | None:
    """Return the code of a language; None if there is no such language.

    Args:
        given: a code of ISO 639 or BCP 47 ("de", "deu", "de-AT"), a locale ("de_DE.UTF-8"), a token of Whisper
            ("<|de|>") or an English name ("German"), in any case.
    """
    from langcodes import Language, standardize_tag, tag_is_valid
    from num2words import CONVERTER_CLASSES

    name = given.strip().strip("<|>").casefold()
    tag = _EXTENSION.sub("", name)
    tag = PREFERRED.get(tag, tag)
    if not tag_is_valid(tag):
        tag = _codes().get(" ".join(name.split()), "")
    if not tag:
        return None
    found = Language.get(standardize_tag(tag, macro=True))
    language = PREFERRED.get(found.language or "", found.language or "")
    if language in UNDETERMINED:
        return None
    country = f"{language}_{found.territory}"
    return country if country in CONVERTER_CLASSES or country in LANGUAGES else language


def language_code(given: str) -> str:
    """Return the code of a language, see :func:`known_code`.

    Raises:
        UserError: there is no such language.
    """
    code = known_code(given)
    if code is None:
        meant = " or ".join(f"{other} ({name_of(other)})" for other in _suggestions(given))
        do = f"did you mean {meant}?" if meant else "give its code, such as de, or its English name"
        raise UserError(f"language {given}", "there is no such language", do)
    return code


def base_of(code: str) -> str:
    """Return a code without its country."""
    return code.partition("_")[0]


def choose(given: str, known: Collection[str]) -> list[str]:
    """Return those of the codes of a model that mean a language: one, none, or several, for example in two scripts.

    Args:
        given: as :func:`known_code` takes it.
        known: codes of the model, whatever standard they follow: Whisper calls Javanese ``jw``.
    """
    plain = given.strip().strip("<|>")
    for exact in (plain, plain.lower()):
        if exact in known:
            return [exact]
    code = known_code(given)
    if code is None:
        return []
    for exact in (code, base_of(code)):
        if exact in known:
            return [exact]
    return [one for one in known if base_of(known_code(one) or "") == base_of(code)]


def name_of(code: str) -> str:
    """Return the English name of a language; "" if it is not known."""
    return _names().get(base_of(code), "")


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """Return codes of a model, the nearest to a language first: by code or by name; else in their order."""
    asked = {given.casefold(), known_code(given) or "", name_of(known_code(given) or "").casefold()} - {""}

    def likeness(code: str) -> float:
        words = {code.casefold(), name_of(known_code(code) or code).casefold()} - {""}
        return max(difflib.SequenceMatcher(None, one, other).ratio() for one in asked for other in words)

    return sorted(known, key=lambda code: -likeness(code)) if asked else list(known)


def _suggestions(given: str) -> list[str]:
    """Return codes that a wrong one may stand for: the language of a country ("jp"), or similar names and codes."""
    from langcodes.data_dicts import LIKELY_SUBTAGS

    wrong = given.strip().casefold()
    if code := known_code(LIKELY_SUBTAGS.get(f"und-{wrong.upper()}", "und")):
        return [code]
    common = {name: code for name, code in _codes().items() if len(code) == 2}
    names = difflib.get_close_matches(wrong, common, 2, 0.7)
    return list(dict.fromkeys(known_code(common[name]) or common[name] for name in names))


@cache
def _codes() -> dict[str, str]:
    """Return the codes of languages by their English names in small letters, from the registry of BCP 47."""
    found: dict[str, str] = {}
    for code, names in _registry():
        for name in names:
            if len(name) > 3:  # shorter ones are codes of other languages
                found.setdefault(name.casefold(), code)
    return found | NAMES


@cache
def _names() -> dict[str, str]:
    """Return the English names of languages by their codes."""
    return {code: names[0] for code, names in _registry()}


@cache
def _registry() -> list[tuple[str, list[str]]]:
    """Return the languages of the registry that langcodes brings: codes and English names, without explanations."""
    from langcodes.registry_parser import parse_registry

    return [
        (entry["Subtag"], [re.sub(r"\s*\(.*?\)", "", name) for name in entry["Description"]])
        for entry in parse_registry()
        if entry["Type"] == "language" and "Preferred-Value" not in entry and ".." not in entry["Subtag"]
    ]
