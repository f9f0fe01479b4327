"""What is there twice, and what test data share with training data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from sft_speech.tools.check import alike
from sft_speech.tools.check.findings import Case, Finding, counted
from sft_speech.tools.check.rows import Rows
from sft_speech.tools.check.sound import Sound
from sft_speech.tools.check.texts import quoted

FEWEST_WORDS = 5  # shorter texts are said again by chance: commands, digits, "thank you very much"
MUCH = 0.5  # of the hours, of one speaker among several


def section(rows: Rows) -> dict[str, Any]:
    """The part ``speakers`` of the report: how many, the hours of each, the largest with its share."""
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


def findings(rows: Rows, spelt: list[str], sound: Sound | None) -> list[Finding]:
    """What is there twice or shared.

    Args:
        spelt: the transcripts as they would be learned.
        sound: None where nothing was decoded.
    """
    found = [] if sound is None else [*_audio(rows, sound, spelt), *alike.findings(rows, sound)]
    found += [*_ids(rows), *_texts(rows, spelt), *_speakers(rows)]
    return [finding for finding in found if finding is not None]


def groups(keys: Iterable[Hashable], numbers: Iterable[int]) -> list[list[int]]:
    """The numbers that have the same key, where there are several."""
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for key, number in zip(keys, numbers, strict=True):
        by_key[key].append(number)
    return [group for group in by_key.values() if len(group) > 1]


def _crosses(rows: Rows, group: Sequence[int]) -> bool:
    """Whether some of the rows are for training and some for evaluation."""
    return len({bool(rows.training[row]) for row in group}) > 1


def _pairs(rows: Rows, found: list[list[int]], detail: str) -> list[Case]:
    """A case for every row but the first of each group, those of evaluation first."""
    cases = []
    for group in found:
        first, *others = sorted(group, key=lambda row: (not rows.training[row], row))
        for row in others:
            told = f"{detail} {rows.name(first)} {rows.ids[first]}"
            cases.append(Case(rows.name(row), rows.ids[row], told, row))
    return cases


def _audio(rows: Rows, sound: Sound, spelt: list[str]) -> list[Finding]:
    digests = [one.digest for one in sound.measured]
    same = groups(digests, sound.rows.tolist())
    found = []
    rule = "the same samples in 16 bits, whatever the file's name or format, zeros at both ends aside"
    leaks = [group for group in same if _crosses(rows, group)]
    if leaks:
        cases = _pairs(rows, leaks, "also as")
        title = f"{counted(len(cases), 'recording')} both trained and tested on, under whatever name"
        do = "take them out of one of the splits: the figures would be too good"
        found.append(Finding("audio_across_splits", "problem", title, rule, do, cases, heard=True))
    unlike = [group for group in same if len({spelt[row] for row in group}) > 1]
    if unlike:
        cases = [Case(rows.name(row), rows.ids[row], quoted(rows.texts[row]), row) for group in unlike for row in group]
        title = f"{counted(len(unlike), 'recording')} with several transcripts"
        do = "listen: only one of them can be right"
        rule_of_both = f"{rule}; the transcripts differ once normalized"
        found.append(Finding("audio_with_two_transcripts", "problem", title, rule_of_both, do, cases, heard=True))
    rest = [group for group in same if not _crosses(rows, group) and len({spelt[row] for row in group}) == 1]
    if rest:
        cases = _pairs(rows, rest, "as")
        title = f"{counted(len(cases), 'recording')} more than once"
        do = "leave the copies out, or keep them if they are to count twice"
        found.append(Finding("repeated_audio", "warning", title, rule, do, cases))
    return found


def _ids(rows: Rows) -> list[Finding]:
    found = []
    twice = [
        Case(name, row.id, row.detail)
        for name in rows.names
        for row in rows.report.dropped(name)
        if row.reason == "duplicate id"
    ]
    if twice:
        title = f"{counted(len(twice), 'row')} whose id an earlier row has"
        do = "give each utterance an id of its own: of those with the same one only the first is used"
        found.append(Finding("duplicate_id", "problem", title, "within a split", do, twice))
    shared = groups(rows.ids, range(len(rows)))
    leaks = [group for group in shared if _crosses(rows, group)]
    if leaks:
        cases = _pairs(rows, leaks, "also in")
        title = f"{counted(len(cases), 'utterance')} in a split for training and in one for evaluation, by id"
        do = "if they are the same utterances, take them out of one; else give them ids of their own"
        found.append(Finding("id_across_splits", "problem", title, "the same id", do, cases))
    return found


def _texts(rows: Rows, spelt: list[str]) -> list[Finding]:
    found = []
    same = groups(spelt, range(len(rows)))
    same = [group for group in same if spelt[group[0]]]
    long = [group for group in same if len(spelt[group[0]].split()) >= FEWEST_WORDS]
    leaks = [group for group in long if _crosses(rows, group)]
    if leaks:
        tested = [row for group in leaks for row in group if not rows.training[row]]
        cases = [Case(rows.name(row), rows.ids[row], quoted(rows.texts[row]), row) for row in tested]
        share = len(tested) / max(1, int((~rows.training).sum()))
        title = f"{counted(len(cases), 'transcript')} of the evaluation ({share:.0%}) also in the training data"
        rule = f"the same once normalized, {FEWEST_WORDS} words or more"
        do = "figures on these say nothing on sentences that are new; part the splits by sentence where that matters"
        found.append(Finding("text_across_splits", "warning", title, rule, do, cases))
    again = sum(len(group) for group in same)
    if again:
        most = sorted(same, key=len, reverse=True)[:5]
        listed = ", ".join(f"{quoted(rows.texts[group[0]], 30)} {len(group)} times" for group in most)
        title = f"{counted(again, 'utterance')} ({again / len(rows):.0%}) with a text that others have too"
        do = "nothing, if people were given sentences to read; else look whether a text was copied to the wrong row"
        found.append(Finding("repeated_text", "note", title, f"the same once normalized; most often {listed}", do))
    return found


def _speakers(rows: Rows) -> list[Finding]:
    found = []
    known = np.array([bool(speaker) for speaker in rows.speakers], bool)
    trained = Counter(speaker for speaker, train in zip(rows.speakers, rows.training, strict=True) if train and speaker)
    tested = Counter(
        speaker for speaker, train in zip(rows.speakers, rows.training, strict=True) if not train and speaker
    )
    shared = [speaker for speaker in tested if speaker in trained]
    if shared and len(trained.keys() | tested.keys()) > 1:
        names = set(shared)
        numbers = [row for row in range(len(rows)) if not rows.training[row] and rows.speakers[row] in names]
        cases = [Case(rows.name(row), rows.ids[row], f"speaker {rows.speakers[row]}", row) for row in numbers]
        some = ", ".join(sorted(shared)[:8]) + (", ..." if len(shared) > 8 else "")
        title = f"{counted(len(shared), 'speaker')} both trained and tested on: {some}"
        rule = f"the same name in a split for training and in one for evaluation; {len(tested)} are evaluated on"
        do = "figures on them say nothing on voices that are new; part the splits by speaker where that matters"
        found.append(Finding("speaker_across_splits", "warning", title, rule, do, cases))
    hours = section(rows)
    if hours["count"] > 1 and hours["largest"][1] > MUCH:
        name, share = hours["largest"]
        title = f"{share:.0%} of the hours are of one speaker, {name}"
        do = "more of the others, if the model is for everyone"
        found.append(Finding("one_speaker", "note", title, f"more than {MUCH:.0%}, among several speakers", do))
    if known.any() and not known.all():
        title = f"{counted(int((~known).sum()), 'utterance')} whose speaker is not known"
        do = "name them: shared speakers can't be found else"
        found.append(Finding("unknown_speaker", "note", title, "no speaker, where others have one", do))
    return found
