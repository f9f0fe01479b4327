"""Remove tokens and passwords from text that is printed or saved."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from types import TracebackType

# Tokens of the Hub, `https://user:password@host`, and the contents of an Authorization header.
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_PASSWORD = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# A token has digits; the words after "the standard bearer" in a transcript have none.
_BEARER = re.compile(r"(?<=bearer )(?=[\w.~+/=-]*\d)[\w.~+/=-]+", re.IGNORECASE)
HIDDEN = "(hidden)"


def redact(text: str) -> str:
    """Return the text without tokens and passwords: the token in use, and anything that looks like one."""
    for token in _known():
        text = text.replace(token, HIDDEN)
    for pattern in (_TOKEN, _PASSWORD, _BEARER):
        text = pattern.sub(HIDDEN, text)
    return text


def _known() -> list[str]:
    """Return the tokens that the Hub's library finds, unless they are too short to tell from ordinary words."""
    found = [os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    if constants := sys.modules.get("huggingface_hub.constants"):  # if imported; the import costs half a second
        try:
            with open(constants.HF_TOKEN_PATH, encoding="utf-8") as file:
                found.append(file.read().strip())
        except (OSError, UnicodeDecodeError):
            pass
    return [token for token in found if len(token) >= 8]


def redact_record(record: logging.LogRecord) -> bool:
    """Remove tokens from the message of a log record; a filter of logging handlers."""
    message = record.getMessage()
    if (clean := redact(message)) != message:
        record.msg, record.args = clean, ()
    return True


def print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without tokens; a ``sys.excepthook``."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
