"""The one exception that users see, what others are to tell, and how text from elsewhere is shown."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from sft_speech.redact import redact

RESUMABLE = 75  # exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h

# Control characters, which move a terminal's cursor or change its title; separators of lines, overrides of the
# direction of text and halves of characters.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, lines: bool = False) -> str:
    """Names and transcripts of others' files, as they may be shown on a terminal: what acts on it is escaped.

    Args:
        lines: leave the ends of lines.
    """
    return _UNSHOWN.sub(lambda one: "\n" if lines and one[0] == "\n" else ascii(one[0])[1:-1], text)


class PrintableFormatter(logging.Formatter):
    """Messages of the log, printable."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


class UserError(Exception):
    """What the user gave can't work.

    Printed as one or two lines, with exit code 2 and no traceback (``--debug`` shows one). Tokens in it are hidden.

    Args:
        given: what was given, as the user would name it.
        why: why it can't work.
        do: what to do about it.
    """

    def __init__(self, given: str, why: str, do: str) -> None:
        given, why, do = redact(given), redact(why), redact(do)
        super().__init__(printable(f"{given}: {why}.\n-> {do}", lines=True))
        self.given, self.why, self.do = given, why, do


class Stopped(SystemExit):
    """A signal ends the run; nothing is lost that was to be kept. No ``except Exception`` is to catch it."""

    def __init__(self) -> None:
        super().__init__(RESUMABLE)


@contextmanager
def concerning(what: str) -> Iterator[None]:
    """Has whatever is raised within tell what it is about, at the end of its traceback."""
    try:
        yield
    except Exception as error:
        error.add_note(printable(what))
        raise
