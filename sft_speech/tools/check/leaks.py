"""Findings about repetition: utterances that occur twice, and overlap between training and evaluation data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from sft_speech.text.counted import counted
from sft_speech.tools.check import alike
from sft_speech.tools.check.findings import Case, Finding, finding
from sft_speech.tools.check.rows import Rows, quoted
from sft_speech.tools.check.sound import Recordings

FEWEST_WORDS = 5  # shorter texts recur by chance: commands, digits, "thank you very much"
DOMINANT = 0.5  # share of the hours by one of several speakers


def section(rows: Rows) -> dict[str, Any]:
    """Return the section ``speakers``: their number, the hours of each, the one with the most hours and its share."""
    hours: Counter[str] = Counter()
    for speaker, seconds in zip(rows.speakers, rows.seconds.tolist(), strict=True):
        hours[speaker] += seconds / 3600
    known = {speaker: found for speaker, found in hours.most_common() if speaker}
    name = next(iter(known), "")
    return {
        "count": len(known),
        "unknown_hours": hours[""],
        "largest": [name, known[name] / max(hours.total(), 1e-9)] if known else None,
        "hours": known,
    }


def findings(rows: Rows, normalized: list[str], recordings: Recordings | None) -> list[Finding]:
    """Return findings about rows that occur twice or are shared between splits.

    Args:
        normalized: the transcripts, normalized as for training.
        recordings: None if nothing was decoded.
    """
    found = []
    if recordings is not None:
        found = [*_audio(rows, recordings, normalized), *alike.findings(rows, recordings)]
    return [*found, *_ids(rows), *_texts(rows, normalized), *_speakers(rows)]


def groups(keys: Iterable[Hashable], numbers: Iterable[int]) -> list[list[int]]:
    """Return the groups of two or more numbers with the same key."""
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for key, number in zip(keys, numbers, strict=True):
        by_key[key].append(number)
    return [group for group in by_key.values() if len(group) > 1]


def _is_leak(rows: Rows, group: Sequence[int]) -> bool:
    """Return whether some of the rows are for training and some for evaluation."""
    return len({bool(rows.training[row]) for row in group}) > 1


def _copies(rows: Rows, found: list[list[int]], detail: str) -> list[Case]:
    """Return a case for every row of a group except the first, which is training data if any is."""
    details: dict[int, str] = {}
    for group in found:
        first, *others = sorted(group, key=lambda row: (not rows.training[row], row))
        details |= dict.fromkeys(others, f"{detail} {rows.name(first)} {rows.ids[first]}")
    return rows.cases(details, details.__getitem__)


def _audio(rows: Rows, recordings: Recordings, normalized: list[str]) -> list[Finding]:
    same = groups([one.digest for one in recordings.measured], recordings.rows.tolist())
    rule = "the same samples in 16 bits, in files of any name and format, without zeros at both ends"
    leaks = [group for group in same if _is_leak(rows, group)]
    contradictory = [group for group in same if len({normalized[row] for row in group}) > 1]
    rest = [group for group in same if group not in leaks and group not in contradictory]
    cases = _copies(rows, leaks, "also as")
    what = "used for both training and evaluation"
    do = "remove them from one of the splits: the figures would be too good"
    found = finding("audio_across_splits", "problem", cases, "recording", what, rule, do, listen=True)

    do = "leave the copies out, or keep them if they are to count twice"
    found += finding("repeated_audio", "warning", _copies(rows, rest, "as"), "recording", "more than once", rule, do)

    cases, count = rows.cases((row for group in contradictory for row in group), rows.quote), len(contradictory)
    what = "with several transcripts"
    rule += "; the normalized transcripts differ"
    do = "listen: at most one of them is correct"
    key = "audio_with_two_transcripts"
    return found + finding(key, "problem", cases, "recording", what, rule, do, listen=True, count=count)


def _ids(rows: Rows) -> list[Finding]:
    twice = [
        Case(name, row.id, row.detail)
        for name in rows.names
        for row in rows.report.dropped(name)
        if row.reason == "duplicate id"
    ]
    leaks = [group for group in groups(rows.ids, range(len(rows))) if _is_leak(rows, group)]
    do = "give each utterance its own id: only the first row with an id is used"
    found = finding("duplicate_id", "problem", twice, "row", "with the id of an earlier row", "within a split", do)

    cases = _copies(rows, leaks, "also in")
    what = "with the same id in training and evaluation data"
    do = "if they are the same utterances, remove them from one split; otherwise give them their own ids"
    found += finding("id_across_splits", "problem", cases, "utterance", what, "the same id", do)
    return found


def _texts(rows: Rows, normalized: list[str]) -> list[Finding]:
    same = [group for group in groups(normalized, range(len(rows))) if normalized[group[0]]]
    long = [group for group in same if len(normalized[group[0]].split()) >= FEWEST_WORDS]
    evaluated = [row for group in long if _is_leak(rows, group) for row in group if not rows.training[row]]
    share = len(evaluated) / max(1, int((~rows.training).sum()))
    what = f"of the evaluation data ({share:.0%}) also in the training data"
    rule = f"the same after normalization, {FEWEST_WORDS} words or more"
    do = "figures on these do not show how well new sentences are recognized; split by sentence if that matters"
    found = finding("text_across_splits", "warning", rows.cases(evaluated, rows.quote), "transcript", what, rule, do)
    repeated = sum(len(group) for group in same)
    if repeated:
        most = sorted(same, key=len, reverse=True)[:5]
        examples = ", ".join(f"{quoted(rows.texts[group[0]], 30)} {len(group)} times" for group in most)
        title = f"{counted(repeated, 'utterance')} ({repeated / len(rows):.0%}) with a transcript that others have too"
        do = "nothing if the speakers read the same sentences; otherwise check whether texts were copied to wrong rows"
        rule = f"the same after normalization; most often {examples}"
        found.append(Finding("repeated_text", "note", title, rule, do))
    return found


def _speakers(rows: Rows) -> list[Finding]:
    trained, evaluated = (
        {speaker for speaker, train in zip(rows.speakers, rows.training, strict=True) if train == role and speaker}
        for role in (True, False)
    )
    shared = sorted(trained & evaluated) if len(trained | evaluated) > 1 else []
    numbers = [row for row, name in enumerate(rows.speakers) if not rows.training[row] and name in shared]
    cases = rows.cases(numbers, lambda row: f"speaker {rows.speakers[row]}")
    what = f"in both training and evaluation data: {', '.join(shared[:8])}" + (", ..." if len(shared) > 8 else "")
    others = counted(len(evaluated), "speaker is", "speakers are")
    rule = f"the same name in training and evaluation data; {others} evaluated"
    do = "figures on them do not show how well new speakers are recognized; split by speaker if that matters"
    found = finding("speaker_across_splits", "warning", cases, "speaker", what, rule, do, count=len(shared))
    hours = section(rows)
    if hours["count"] > 1 and hours["largest"][1] > DOMINANT:
        name, share = hours["largest"]
        title = f"{share:.0%} of the hours are by one speaker, {name}"
        do = "add speech by others if the model is for everyone"
        found.append(Finding("one_speaker", "note", title, f"more than {DOMINANT:.0%}, among several speakers", do))
    unknown = int(np.sum([not speaker for speaker in rows.speakers]))
    if 0 < unknown < len(rows):
        title = f"{counted(unknown, 'utterance')} without a speaker"
        do = "name the speakers; otherwise speakers in both training and evaluation data cannot be found"
        found.append(Finding("unknown_speaker", "note", title, "no speaker, although other rows have one", do))
    return found
