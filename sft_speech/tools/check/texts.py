"""What the transcripts are like: characters, words, pace, and signs of a slip."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from sft_speech.tools.check.findings import Case, Finding, as_dict, counted, listed, odd
from sft_speech.tools.check.rows import Rows

PACE_SIGMAS, PACE_FACTOR = 5.0, 2.5  # both: in a narrow corpus small deviations are many sigmas
FEWEST = 20  # utterances, for their median to mean anything
MOST_PACE = 40.0  # characters per second; nobody speaks any language that fast
FOREIGN_SHARE = 0.01  # of the letters; a script that so few belong to is not the corpus's own
RARE = 5  # times that a character stands in the transcripts; with fewer nothing can be learned of it
MIXED = frozenset(
    ["LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC"]
)  # scripts with letters that look alike
PLACEHOLDERS = frozenset("null nan n/a na undefined todo tbd tba xxx <unk> [unk] -".split())
MARKUP = re.compile(r"\[[^\[\]\s][^\[\]]{,30}\]|<[^<>\s][^<>]{,30}>|\{[^{}\s][^{}]{,30}\}|&(?:\w{2,8}|#\d{1,6});")
# UTF-8 read as Latin-1: a lead byte as a capital with an accent, then a continuation byte as a symbol.
DAMAGED = re.compile("�|[Â-ô][\x80-\xbf]|â€")
_SPACES = frozenset("\t\n\r")


def section(rows: Rows, spelt: list[str], has_vocabulary: bool) -> dict[str, Any]:
    """The part ``text`` of the report.

    Args:
        spelt: the transcripts as they would be learned.
    """
    characters, words = Counter("".join(rows.texts)), Counter(word for text in spelt for word in text.split())
    pace = paces(rows, spelt)
    missing: Counter[str] = Counter()
    if has_vocabulary:
        for name in rows.names:
            missing += rows.report.missing(name)
    return {
        "characters": characters.total(),
        "distinct_characters": len(characters),
        "character_counts": as_dict(characters),
        "words": words.total(),
        "distinct_words": len(words),
        "words_said_once": sum(count == 1 for count in words.values()),
        "most_frequent_words": dict(words.most_common(50)),
        "missing_characters": as_dict(missing),
        "characters_per_second": float(np.exp(np.median(np.log(pace[pace > 0])))) if (pace > 0).any() else None,
    }


def paces(rows: Rows, spelt: list[str]) -> np.ndarray:
    """(rows,) characters per second, spaces aside."""
    letters = np.array([len(text) - text.count(" ") for text in spelt], np.float64)
    return letters / np.maximum(rows.seconds, 1e-3)


def findings(rows: Rows, spelt: list[str]) -> list[Finding]:
    """What is odd about the transcripts."""
    alphabet = Counter("".join(rows.texts))
    found = [_short(rows, spelt), *_slips(rows, spelt), _pace(rows, spelt)]
    found += [_invisible(rows, alphabet), _damaged(rows), _markup(rows), _mixed(rows), _foreign(rows, alphabet)]
    found += [_symbols(rows, alphabet), _rare(spelt)]
    return [finding for finding in found if finding is not None]


def _cases(rows: Rows, numbers: Iterable[int], detail: Callable[[int], str] = lambda row: "") -> list[Case]:
    return [Case(rows.name(row), rows.ids[row], detail(row), row) for row in numbers]


def quoted(text: str, most: int = 60) -> str:
    """A transcript within a line."""
    return f"“{text}”" if len(text) <= most else f"“{text[: most - 1]}…”"


# ---- whole transcripts ----


def _short(rows: Rows, spelt: list[str]) -> Finding | None:
    """A letter for more than a second: the rest was lost, most likely."""
    numbers = [row for row, text in enumerate(spelt) if len(text) == 1 and text.isascii() and rows.seconds[row] > 1.0]
    if not numbers:
        return None
    cases = _cases(rows, numbers, lambda row: f"{quoted(rows.texts[row])} for {rows.seconds[row]:.1f} s")
    title = f"{counted(len(cases), 'transcript')} of a single letter"
    rule = "one letter from a to z for more than a second of audio"
    return Finding("one_letter", "warning", title, rule, "listen: is that all that is said?", cases, heard=True)


def _slips(rows: Rows, spelt: list[str]) -> list[Finding]:
    """Transcripts that are something else."""
    found = []
    same = [row for row, text in enumerate(rows.texts) if text.strip() and text.strip() in _names(rows.ids[row])]
    spoken = Counter(spelt)
    # "seven.wav" says seven, and a file may well be named by its command: names that others share say something.
    named = [row for row in same if any(map(str.isdigit, rows.texts[row])) or spoken[spelt[row]] == 1]
    if named:
        title = f"{counted(len(named), 'transcript')} identical to the name of the file"
        rule = "the transcript is the id, or the name of the file with or without its ending, and stands only once"
        cases = _cases(rows, named, lambda row: quoted(rows.texts[row]))
        do = "a column was mistaken for the transcript, or it is missing: write down what is said"
        found.append(Finding("transcript_is_name", "problem", title, rule, do, cases, heard=True))
    blank = [row for row, text in enumerate(rows.texts) if text.strip().casefold() in PLACEHOLDERS]
    if blank:
        title = f"{counted(len(blank), 'transcript')} that {'holds' if len(blank) == 1 else 'hold'} a placeholder"
        rule = f"nothing but one of {', '.join(sorted(PLACEHOLDERS))}"
        cases = _cases(rows, blank, lambda row: quoted(rows.texts[row]))
        do = "write down what is said, or leave them out"
        found.append(Finding("placeholder", "problem", title, rule, do, cases, heard=True))
    return found


def _names(id: str) -> set[str]:
    base = os.path.basename(id)
    return {id, base, os.path.splitext(id)[0], os.path.splitext(base)[0]}


def _pace(rows: Rows, spelt: list[str]) -> Finding | None:
    """Robust: the median and the MAD of the logarithm aren't moved by the outliers that they are to find."""
    pace = paces(rows, spelt)
    said = np.flatnonzero(pace > 0)
    if not len(said):
        return None
    far, middle = pace_outliers(pace[said])
    if not far.any():
        return None
    order = sorted(np.flatnonzero(far), key=lambda place: -abs(np.log(pace[said[place]] / middle)))
    numbers = [int(said[place]) for place in order]
    detail = lambda row: f"{pace[row]:.1f} in {rows.seconds[row]:.1f} s: {quoted(rows.texts[row])}"  # noqa: E731
    usual = f"far from the usual {middle:.1f}" if len(said) >= FEWEST else f"above {MOST_PACE:g}"
    title = f"{counted(len(numbers), 'utterance')} {usual} characters per second"
    rule = (
        f"{PACE_SIGMAS:g} robust standard deviations (1.4826 MAD of the logarithm) and a factor of {PACE_FACTOR:g} "
        f"away from the median, or above {MOST_PACE:g}"
    )
    do = "listen: text is missing or too much, or the recording is cut or runs on in silence"
    return Finding("pace", "warning", title, rule, do, _cases(rows, numbers, detail), heard=True)


def pace_outliers(pace: np.ndarray) -> tuple[np.ndarray, float]:
    """Which paces (N,), all above 0, are far from their median, and the median."""
    logs = np.log(pace)
    middle = float(np.median(logs))
    sigma = 1.4826 * float(np.median(np.abs(logs - middle)))
    far = np.abs(logs - middle) > max(PACE_SIGMAS * sigma, np.log(PACE_FACTOR))
    return (far & (len(pace) >= FEWEST)) | (pace > MOST_PACE), float(np.exp(middle))


# ---- characters ----


def named(character: str) -> str:
    """A character with its number and name."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"


def _with(rows: Rows, characters: Iterable[str]) -> list[int]:
    """Rows whose transcripts hold one of the characters."""
    wanted = set(characters)
    return [row for row, text in enumerate(rows.texts) if not wanted.isdisjoint(text)] if wanted else []


def _invisible(rows: Rows, alphabet: Counter[str]) -> Finding | None:
    found = {c for c in alphabet if (odd(c) and c not in _SPACES) or (c.isspace() and c not in _SPACES | {" "})}
    found -= {"\u200c", "\u200d"}  # joiners, which Persian and the scripts of India are written with
    numbers = _with(rows, found)
    if not numbers:
        return None
    title = f"{counted(len(numbers), 'transcript')} with invisible characters"
    most = ", ".join(named(c) for c in sorted(found, key=lambda c: -alphabet[c])[:8])
    detail = lambda row: ", ".join(sorted({named(c) for c in rows.texts[row] if c in found}))  # noqa: E731
    rule = f"controls, marks of direction, spaces of other widths; here: {most}"
    do = "they are left out of what is learned; take them out of the corpus, lest words that look alike differ"
    return Finding("invisible_characters", "warning", title, rule, do, _cases(rows, numbers, detail))


def _damaged(rows: Rows) -> Finding | None:
    numbers = [row for row, text in enumerate(rows.texts) if not text.isascii() and DAMAGED.search(text)]
    if not numbers:
        return None
    title = f"{counted(len(numbers), 'transcript')} of damaged encoding"
    rule = "the replacement character U+FFFD, or UTF-8 that was read as Latin-1 (Ã© for é)"
    do = "read the original table as UTF-8, or whatever it was written in"
    cases = _cases(rows, numbers, lambda row: quoted(rows.texts[row]))
    return Finding("damaged_encoding", "problem", title, rule, do, cases)


def _markup(rows: Rows) -> Finding | None:
    texts = enumerate(rows.texts)
    numbers = [row for row, text in texts if MARKUP.search(text) and text.strip().casefold() not in PLACEHOLDERS]
    if not numbers:
        return None
    marks = Counter(mark for row in numbers for mark in MARKUP.findall(rows.texts[row]))
    title = f"{counted(len(numbers), 'transcript')} with marks in brackets"
    rule = f"[...], <...>, {{...}} or &...; here: {', '.join(mark for mark, _ in marks.most_common(6))}"
    do = "brackets are left out but the words in them would be learned as if they were said: take the marks out"
    cases = _cases(rows, numbers, lambda row: quoted(rows.texts[row]))
    return Finding("markup", "warning", title, rule, do, cases)


@cache
def script(character: str) -> str:
    """The first word of a letter's name, which tells its script; "" for what is no letter."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").split(" ")[0]
    return "CJK" if first in {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"} else first.split("-")[0]


def _mixed(rows: Rows) -> Finding | None:
    """Words of letters out of several scripts: a Cyrillic а among Latin ones looks right, and is another character."""
    found: dict[int, list[str]] = {}
    for row, text in enumerate(rows.texts):
        if not text.isascii():
            words = [word for word in text.split() if len({script(c) for c in word} & MIXED) > 1]
            if words:
                found[row] = words
    if not found:
        return None
    title = f"{counted(len(found), 'transcript')} with words of letters from several scripts"
    detail = lambda row: ", ".join(f"{word} ({_strangers(word)})" for word in found[row][:3])  # noqa: E731
    do = "letters that look alike were mixed up: replace them by those of the language"
    return Finding("mixed_scripts", "problem", title, "within one word", do, _cases(rows, found, detail))


def _strangers(word: str) -> str:
    counts = Counter(script(c) for c in word if script(c))
    own = counts.most_common(1)[0][0]
    return ", ".join(named(c) for c in dict.fromkeys(word) if script(c) not in ("", own))


def _foreign(rows: Rows, alphabet: Counter[str]) -> Finding | None:
    scripts: Counter[str] = Counter()
    for character, count in alphabet.items():
        if script(character):
            scripts[script(character)] += count
    foreign = {name for name, count in scripts.items() if count < FOREIGN_SHARE * scripts.total()}
    numbers = _with(rows, (c for c in alphabet if script(c) in foreign))
    if not numbers:
        return None
    own = ", ".join(name.capitalize() for name in scripts if name not in foreign)
    title = f"{counted(len(numbers), 'transcript')} with letters of another script than {own}"
    rule = f"a script that fewer than {FOREIGN_SHARE:.0%} of the letters belong to"
    detail = lambda row: "".join(dict.fromkeys(c for c in rows.texts[row] if script(c) in foreign))  # noqa: E731
    do = "write these words in the corpus's own script, or leave the utterances out"
    return Finding("foreign_letters", "warning", title, rule, do, _cases(rows, numbers, detail))


def _symbols(rows: Rows, alphabet: Counter[str]) -> Finding | None:
    found = {c: n for c, n in alphabet.items() if c.isdigit() or unicodedata.category(c) in {"Sc", "Sm", "So", "No"}}
    found |= {c: alphabet[c] for c in "%&@#" if c in alphabet}
    numbers = _with(rows, found)
    if not numbers:
        return None
    here = listed(as_dict(Counter(found)), 20)
    title = f"{counted(len(numbers), 'transcript')} with digits or symbols"
    do = "they are spelt out where the language is known; see that they are read as they were said"
    cases = _cases(rows, numbers, lambda row: quoted(rows.texts[row]))
    return Finding("digits_and_symbols", "note", title, f"here: {here}", do, cases)


def _rare(spelt: list[str]) -> Finding | None:
    """Letters that a vocabulary built from the transcripts would have, though nobody could learn them."""
    counts = Counter("".join(spelt))
    if counts.total() < 1000:
        return None
    rare = {c: n for c, n in counts.items() if n < RARE}
    if not rare:
        return None
    rarest = dict(sorted(rare.items(), key=lambda item: item[1]))
    title = f"{counted(len(rare), 'character')} too rare to be learned: {listed(rarest, 20)}"
    do = "more speech, if they belong to the language; else they are misspelt: look for them in the transcripts"
    return Finding("rare_characters", "note", title, f"fewer than {RARE} times once normalized", do)
