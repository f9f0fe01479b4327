"""Keeps tokens and passwords out of what is printed and written."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from typing import Any

# Tokens of the Hub as they look, `https://user:password@host`, and whatever an Authorization header carries.
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_PASSWORD = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?<=bearer )\S+", re.IGNORECASE)
HIDDEN = "(hidden)"


def redact(text: str) -> str:
    """The text without tokens and passwords: those that look like one, and the one that the environment holds."""
    for token in _known():
        text = text.replace(token, HIDDEN)
    for pattern in (_TOKEN, _PASSWORD, _BEARER):
        text = pattern.sub(HIDDEN, text)
    return text


def _known() -> list[str]:
    """The tokens that the Hub's library finds, as long as one can be told from an ordinary word."""
    found = [os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    if constants := sys.modules.get("huggingface_hub.constants"):  # not imported for this: it costs half a second
        try:
            with open(constants.HF_TOKEN_PATH, encoding="utf-8") as file:
                found.append(file.read().strip())
        except (OSError, UnicodeDecodeError):
            pass
    return [token for token in found if len(token) >= 8]


def redact_record(record: logging.LogRecord) -> bool:
    """A filter of logging handlers: the record's message without tokens."""
    message = record.getMessage()
    if (clean := redact(message)) != message:
        record.msg, record.args = clean, ()
    return True


def print_exception(kind: Any, error: Any, trace: Any) -> None:
    """A ``sys.excepthook``: the traceback, with all that led to it, without tokens."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
