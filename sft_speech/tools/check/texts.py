"""Findings about transcripts: characters, words, speaking rate, and signs of a mistake."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from sft_speech.corpora.report import NEW_VOCABULARY
from sft_speech.pages.markup import invisible
from sft_speech.text.counted import counted
from sft_speech.text.markup import SUSPECT, clean
from sft_speech.text.unspelt import Unspelt, unspelt_by
from sft_speech.tools.check.findings import Finding, as_dict, finding, listed
from sft_speech.tools.check.rows import Rows

PACE_SIGMAS, PACE_FACTOR = 5.0, 2.5  # both must be exceeded: in a uniform corpus, small deviations are many sigmas
FEWEST = 20  # utterances for a meaningful median
MOST_PACE = 40.0  # characters per second, faster than anybody speaks any language
FOREIGN_SHARE = 0.01  # of the letters; rarer scripts are foreign to the corpus
RARE = 5  # occurrences of a character; rarer ones cannot be learned
# scripts with letters that look alike
MIXED = frozenset(["LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC"])
PLACEHOLDERS = frozenset("null nan n/a na undefined todo tbd tba xxx <unk> [unk] -".split())
# UTF-8 read as Latin-1: a lead byte as a capital with an accent, then a continuation byte as a symbol.
DAMAGED = re.compile("�|[Â-ô][\x80-\xbf]|â€")
_SPACES = frozenset("\t\n\r")


def section(rows: Rows, normalized: list[str], has_vocabulary: bool) -> dict[str, Any]:
    """Return the section ``text`` of the report.

    Args:
        normalized: the transcripts, normalized as for training.
    """
    characters, words = Counter("".join(rows.texts)), Counter(word for text in normalized for word in text.split())
    pace = paces(rows, normalized)
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


def paces(rows: Rows, normalized: list[str]) -> np.ndarray:
    """Return the characters per second of each row (N,), without spaces."""
    letters = np.array([len(text) - text.count(" ") for text in normalized], np.float64)
    return letters / np.maximum(rows.seconds, 1e-3)


def findings(rows: Rows, normalized: list[str], normalize: object = None) -> list[Finding]:
    """Return findings about the transcripts.

    Args:
        normalize: the normalizer that returned ``normalized``.
    """
    alphabet = Counter("".join(rows.texts))
    return [
        *_one_letter(rows, normalized),
        *_file_names(rows, normalized),
        *_placeholders(rows),
        *_pace(rows, normalized),
        *_invisible(rows, alphabet),
        *_damaged(rows),
        *_markup(rows),
        *_folded(rows),
        *_mixed(rows),
        *_foreign(rows, alphabet),
        *_symbols(rows, alphabet, unspelt_by(normalize)),
        *_rare(normalized),
    ]


# ---- whole transcripts ----


def _one_letter(rows: Rows, normalized: list[str]) -> list[Finding]:
    """Find transcripts of a single letter for more than a second: the rest was probably lost."""
    lone = [row for row, text in enumerate(normalized) if len(text) == 1 and text.isascii() and rows.seconds[row] > 1.0]
    cases = rows.cases(lone, lambda row: f"{rows.quote(row)} for {rows.seconds[row]:.1f} s")
    rule = "one letter from a to z for more than a second of audio"
    do = "listen: is anything else spoken?"
    return finding("one_letter", "warning", cases, "transcript", "of a single letter", rule, do, listen=True)


def _file_names(rows: Rows, normalized: list[str]) -> list[Finding]:
    same = [row for row, text in enumerate(rows.texts) if text.strip() and text.strip() in _names(rows.ids[row])]
    counts = Counter(normalized)
    # "seven.wav" may well hold the word seven, but then other files have the same transcript.
    named = [row for row in same if any(map(str.isdigit, rows.texts[row])) or counts[normalized[row]] == 1]
    cases = rows.cases(named, rows.quote)
    what = "identical to the name of the file"
    rule = "the transcript is the id, or the name of the file with or without its suffix, and occurs only once"
    do = "use the right column for the transcripts, or transcribe the recordings"
    return finding("transcript_is_name", "problem", cases, "transcript", what, rule, do, listen=True)


def _names(id: str) -> set[str]:
    base = os.path.basename(id)
    return {id, base, os.path.splitext(id)[0], os.path.splitext(base)[0]}


def _placeholders(rows: Rows) -> list[Finding]:
    blank = [row for row, text in enumerate(rows.texts) if text.strip().casefold() in PLACEHOLDERS]
    what = "with only a placeholder"
    rule = f"one of {', '.join(sorted(PLACEHOLDERS))}"
    do = "transcribe them, or leave them out"
    return finding("placeholder", "problem", rows.cases(blank, rows.quote), "transcript", what, rule, do, listen=True)


def _pace(rows: Rows, normalized: list[str]) -> list[Finding]:
    pace = paces(rows, normalized)
    spoken = np.flatnonzero(pace > 0)
    if not len(spoken):
        return []
    far, median = pace_outliers(pace[spoken])
    usual = f"far from the usual {median:.1f}" if len(spoken) >= FEWEST else f"above {MOST_PACE:g}"
    order = sorted(spoken[far].tolist(), key=lambda row: -abs(np.log(pace[row] / median)))
    cases = rows.cases(order, lambda row: f"{pace[row]:.1f} in {rows.seconds[row]:.1f} s: {rows.quote(row)}")
    what = f"{usual} characters per second"
    rule = (
        f"{PACE_SIGMAS:g} robust standard deviations (1.4826 MAD of the logarithm) and a factor of {PACE_FACTOR:g} "
        f"away from the median, or above {MOST_PACE:g}"
    )
    do = "listen: text is missing or added, or the recording is cut off or has long silence"
    return finding("pace", "warning", cases, "utterance", what, rule, do, listen=True)


def pace_outliers(pace: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a mask (N,) of the paces (N,), all above 0, that are far from the median; and the median.

    The median and MAD of the logarithm are robust against outliers.
    """
    logs = np.log(pace)
    median = float(np.median(logs))
    sigma = 1.4826 * float(np.median(np.abs(logs - median)))
    far = np.abs(logs - median) > max(PACE_SIGMAS * sigma, np.log(PACE_FACTOR))
    return (far & (len(pace) >= FEWEST)) | (pace > MOST_PACE), float(np.exp(median))


# ---- characters ----


def described(characters: Iterable[str]) -> str:
    """Return the code point and the name of each character."""
    return ", ".join(f"U+{ord(one):04X} {unicodedata.name(one, 'without a name')}" for one in characters)


def _with(rows: Rows, characters: Iterable[str]) -> list[int]:
    """Return the rows whose transcripts contain any of the characters."""
    wanted = set(characters)
    return [row for row, text in enumerate(rows.texts) if not wanted.isdisjoint(text)] if wanted else []


def _invisible(rows: Rows, alphabet: Counter[str]) -> list[Finding]:
    found = {c for c in alphabet if (invisible(c) and c not in _SPACES) or (c.isspace() and c not in _SPACES | {" "})}
    found -= {"\u200c", "\u200d"}  # joiners, which Persian and Indic scripts need
    most = sorted(found, key=lambda c: -alphabet[c])[:8]
    cases = rows.cases(_with(rows, found), lambda row: described(sorted(found & set(rows.texts[row]))))
    rule = f"controls, direction marks, spaces of other widths; here: {described(most)}"
    do = "training ignores them; remove them, because words that look the same are different strings"
    return finding("invisible_characters", "warning", cases, "transcript", "with invisible characters", rule, do)


def _damaged(rows: Rows) -> list[Finding]:
    damaged = [row for row, text in enumerate(rows.texts) if not text.isascii() and DAMAGED.search(text)]
    cases = rows.cases(damaged, rows.quote)
    rule = "the replacement character U+FFFD, or UTF-8 that was read as Latin-1 (Ã© for é)"
    do = "read the original table as UTF-8, or in its encoding"
    return finding("damaged_encoding", "problem", cases, "transcript", "with damaged encoding", rule, do)


def _markup(rows: Rows) -> list[Finding]:
    """Find signs of known conventions, which training removes, and brackets of unknown ones."""
    cleaned = {
        row: clean(text)
        for row, text in enumerate(rows.texts)
        if SUSPECT.search(text) and text.strip().casefold() not in PLACEHOLDERS
    }
    known = {row: one.marks for row, one in cleaned.items() if one.marks}
    counts = sum((one.unknown for one in cleaned.values()), Counter[str]())
    repeated = {mark for mark, count in counts.items() if count > 1 or mark[0] != "("}  # (an aside) may be spoken
    unknown = {row: one.unknown for row, one in cleaned.items() if not repeated.isdisjoint(one.unknown)}
    found = finding(
        "markup",
        "note",
        rows.cases(known, rows.quote),
        "transcript",
        "with signs of transcription",
        f"those of GigaSpeech, TED-LIUM, Switchboard, HTML; here: {_listed(known)}",
        "nothing: training and evaluation remove them, unless markup is keep",
    )
    return found + finding(
        "unknown_markup",
        "warning",
        rows.cases(unknown, rows.quote),
        "transcript",
        "with marks in brackets",
        f"[...], <...>, {{...}}, or (...) more than once, of no known convention; here: {_listed(unknown)}",
        "remove the marks: training drops the brackets, but keeps the words in them as if they were spoken",
    )


def _listed(marks: Mapping[int, Counter[str]]) -> str:
    counts = sum(marks.values(), Counter[str]())
    return ", ".join(f"{mark} ({count:,})" for mark, count in counts.most_common(6))


def _folded(rows: Rows) -> list[Finding]:
    """Find letters that the vocabulary of the model lacks, and that training writes without their marks."""
    letters: Counter[str] = Counter()
    first: dict[str, str] = {}
    changed = 0
    for name in rows.names:
        counts, ids, count = rows.report.notes(name).get("folded", ({}, {}, 0))
        letters, first, changed = letters + Counter(counts), {**ids, **first}, changed + count
    if not letters:
        return []
    title = (
        f"{counted(changed, 'transcript')} with letters that the vocabulary lacks, written without their marks: "
        f"{listed(as_dict(letters), 20)}; the first is {next(iter(first.values()))}"
    )
    return [Finding("folded_letters", "warning", title, "é is written as e, ß as ss", NEW_VOCABULARY)]


@cache
def script(character: str) -> str:
    """Return the script of a letter, the first word of its name; "" if it is not a letter."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").split(" ")[0]
    return "CJK" if first in {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"} else first.split("-")[0]


def _mixed(rows: Rows) -> list[Finding]:
    """Find words with letters of several scripts: a Cyrillic а looks like a Latin one, but is another character."""
    found: dict[int, list[str]] = {}
    for row, text in enumerate(rows.texts):
        if not text.isascii():
            words = [word for word in text.split() if len({script(c) for c in word} & MIXED) > 1]
            if words:
                found[row] = words
    cases = rows.cases(found, lambda row: ", ".join(f"{word} ({_foreign_letters(word)})" for word in found[row][:3]))
    what = "with letters from several scripts in one word"
    do = "replace letters that only look right by those of the language"
    return finding("mixed_scripts", "problem", cases, "transcript", what, "within one word", do)


def _foreign_letters(word: str) -> str:
    counts = Counter(script(c) for c in word if script(c))
    own = counts.most_common(1)[0][0]
    return described(c for c in dict.fromkeys(word) if script(c) not in ("", own))


def _foreign(rows: Rows, alphabet: Counter[str]) -> list[Finding]:
    scripts: Counter[str] = Counter()
    for character, count in alphabet.items():
        if script(character):
            scripts[script(character)] += count
    foreign = {name for name, count in scripts.items() if count < FOREIGN_SHARE * scripts.total()}
    letters = {c for c in alphabet if script(c) in foreign}
    own = ", ".join(name.capitalize() for name in scripts if name not in foreign)
    cases = rows.cases(
        _with(rows, letters), lambda row: "".join(c for c in dict.fromkeys(rows.texts[row]) if c in letters)
    )
    what = f"with letters of other scripts than {own}"
    rule = f"a script with fewer than {FOREIGN_SHARE:.0%} of the letters"
    do = "write these words in the script of the corpus, or leave the utterances out"
    return finding("foreign_letters", "warning", cases, "transcript", what, rule, do)


def _symbols(rows: Rows, alphabet: Counter[str], unspelt: Unspelt | None) -> list[Finding]:
    found = {c: n for c, n in alphabet.items() if c.isdigit() or unicodedata.category(c) in {"Sc", "Sm", "So", "No"}}
    found |= {c: alphabet[c] for c in "%&@#" if c in alphabet}
    cases = rows.cases(_with(rows, found), rows.quote)
    rule = f"here: {listed(as_dict(Counter(found)), 20)}"
    if unspelt is not None and unspelt.count(rows.texts):
        what, do = f"with digits or symbols that are not spelled out, because {unspelt.why}", unspelt.do
        return finding("digits_and_symbols", "warning", cases, "transcript", what, rule, do)
    do = "they are spelled out; check that they were spoken that way"
    return finding("digits_and_symbols", "note", cases, "transcript", "with digits or symbols", rule, do)


def _rare(normalized: list[str]) -> list[Finding]:
    """Find characters that a vocabulary built from the transcripts would hold, but that are too rare to be learned."""
    counts = Counter("".join(normalized))
    rare = {c: n for c, n in counts.items() if n < RARE}
    if counts.total() < 1000 or not rare:
        return []
    rarest = dict(sorted(rare.items(), key=lambda item: item[1]))
    title = f"{counted(len(rare), 'character')} too rare to be learned: {listed(rarest, 20)}"
    do = "add speech that has them if they belong to the language; otherwise look for misspellings"
    return [Finding("rare_characters", "note", title, f"fewer than {RARE} times after normalization", do)]
