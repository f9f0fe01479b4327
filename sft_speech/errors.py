"""Errors shown to users, and safe printing of text from files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from sft_speech.redact import redact

RESUMABLE = 75  # exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h

# Control characters, which move a terminal's cursor or change its title; line separators, overrides of the text
# direction, and surrogates.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, lines: bool = False) -> str:
    """Escape characters that would control a terminal, in names and transcripts from files.

    Args:
        lines: whether to keep line feeds.
    """
    return _UNSHOWN.sub(lambda one: "\n" if lines and one[0] == "\n" else ascii(one[0])[1:-1], text)


class PrintableFormatter(logging.Formatter):
    """Formats log messages without characters that control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


class UserError(Exception):
    """An input that cannot be used.

    It is printed in one or two lines, with exit code 2 and no traceback (``--debug`` shows one). Tokens are hidden.

    Args:
        given: the input, as the user would name it.
        why: the reason.
        do: what to do about it.
    """

    def __init__(self, given: str, why: str, do: str) -> None:
        given, why, do = redact(given), redact(why), redact(do)
        super().__init__(printable(f"{given}: {why}.\n-> {do}", lines=True))
        self.given, self.why, self.do = given, why, do


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, without its full stop; the name of the error if it has none."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


class Stopped(SystemExit):
    """A signal ended the run, which can be resumed. Not an ``Exception``, so that no handler catches it."""

    def __init__(self) -> None:
        super().__init__(RESUMABLE)


@contextmanager
def concerning(what: str) -> Iterator[None]:
    """Add a note to any exception raised within the block: what it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(printable(what))
        raise
