"""Hypotheses that were likely not spoken: loops, impossible speed, text for silence.

Recognizers with a decoder can repeat themselves until their longest output is reached, or make up text for clips that
hold no speech. The rules would rather miss some than flag a text that somebody may have said.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import Literal

Loop = Literal["silence", "repetition", "speed"]

# OpenAI's Whisper decodes a window of 30 s again if its text compresses better (Radford et al. 2022, section 4.5).
MAX_COMPRESSION = 2.4
WINDOW = 600  # characters, what people say in about 40 s; a chapter of 23,000 characters has a ratio of 2.5
SHORTEST = 100  # letters: in shorter texts, such as a telephone number, every word may occur several times
REPEATS, REPEATED = 6, 60  # a unit that occurs at least 6 times in a row, in at least 60 letters altogether
# Read English has about 15 characters per second; the fastest utterance of 5 hours of LibriSpeech has 23.
LETTERS_PER_SECOND = 40.0
GRACE_SECONDS = 0.5  # for clips that cut a word

_REPETITION = re.compile(rf"(.{{1,120}}?)\1{{{REPEATS - 1},}}")


def loop_of(text: str, seconds: float, silent: bool | None = None) -> Loop | None:
    """Return why a hypothesis was likely not spoken; None if it may have been.

    Args:
        text: the hypothesis, as the recognizer wrote it.
        seconds: length of the audio.
        silent: whether there is no speech in the audio; None if that is not known.
    """
    text = " ".join(text.casefold().split())
    if silent and text:
        return "silence"
    if is_repetition(text):
        return "repetition"
    return "speed" if letters(text) > LETTERS_PER_SECOND * (seconds + GRACE_SECONDS) else None


def is_repetition(text: str) -> bool:
    """Return whether a text repeats itself more often than people do.

    Either a word, phrase or sentence occurs many times in a row, or a passage compresses too well.
    """
    if any(letters(found[0]) >= REPEATED for found in _REPETITION.finditer(text)):
        return True
    windows = (text[start : start + WINDOW] for start in range(0, len(text), WINDOW))
    return any(letters(window) >= SHORTEST and compression_ratio(window) > MAX_COMPRESSION for window in windows)


def compression_ratio(text: str) -> float:
    """Return the length of a text over its length after compression by zlib.

    For ASCII it is OpenAI's figure, of bytes in UTF-8. Other letters count as one byte as long as 128 of them are
    enough: UTF-8 writes those of a script with the same first bytes, so that ordinary Hindi would count as a loop.
    """
    if not text:
        return 0.0
    others = sorted({character for character in text if not character.isascii()})
    if len(others) <= 128:
        table = {ord(character): 128 + number for number, character in enumerate(others)}
        data = text.translate(table).encode("latin-1")
    else:
        data = text.encode("utf-16-le", "surrogatepass")
    return len(data) / len(zlib.compress(data))


def letters(text: str) -> int:
    """Return the number of characters; a wide one (Chinese, Japanese, Korean) is a syllable and counts as 3."""
    if text.isascii():
        return len(text)
    return sum(3 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
