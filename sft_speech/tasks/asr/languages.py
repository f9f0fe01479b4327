"""The languages of rows, for recognizers that can be told which language to write."""

from __future__ import annotations

import re
from collections.abc import Container

from sft_speech.corpora.select import Reason


def code_of(language: str, known: Container[str]) -> str | None:
    """Return the code of a language.

    Args:
        language: its code ("de"), a locale ("de-AT"), its English name ("German") or its token ("<|de|>").
        known: the codes to choose from; None is returned for others.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    given = language.strip().strip("<|>").lower()  # some generation configs hold the token
    codes = (TO_LANGUAGE_CODE.get(name, name) for name in (given, re.split("[-_]", given)[0]))
    return next((code for code in codes if code in known), None)


def language_reason(language: str, known: Container[str]) -> Reason | None:
    """Return why a row of this language cannot be used by a recognizer that knows others."""
    if not language.strip():
        return "no language", ""
    return None if code_of(language, known) else ("unknown language", f"the model has none called {language}")
