"""The languages of recordings and rows, and the options that name them."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import TYPE_CHECKING

from sft_speech.errors import UserError
from sft_speech.text.codes import choose, language_code

if TYPE_CHECKING:
    from sft_speech.corpora.select import Reason


def code_of(language: str, known: Collection[str]) -> str | None:
    """Return the code of a language among those of a model; None if it has none, see
    :func:`~sft_speech.text.codes.choose`.
    """
    return next(iter(choose(language, known)), None)


def language_reason(language: str, known: Collection[str]) -> Reason | None:
    """Return why a row of this language cannot be used by a recognizer that knows others."""
    if not language.strip():
        return "no language", ""
    return None if code_of(language, known) else ("unknown language", f"the model has none called {language}")


def add_language_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--language`` and ``--target_lang``, for the verbs that use a recognizer."""
    parser.add_argument(
        "--language",
        type=language_argument,
        metavar="L",
        help="language of the recordings, such as de [the model's; a multilingual Whisper detects it]",
    )
    parser.add_argument(
        "--target_lang",
        metavar="L",
        help="adapter of a multilingual checkpoint (MMS), such as fra [that of --language]",
    )


def language_argument(given: str) -> str | None:
    """Return the code of a language on a command line; None for "", which an unset variable leaves.

    Raises:
        ArgumentTypeError: there is no such language.
    """
    try:
        return language_code(given) if given.strip() else None
    except UserError as error:
        raise argparse.ArgumentTypeError(f"{given}: {error.why}; {error.do}") from error
