"""What a run would leave out: the rows in the corpus report, as findings."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from sft_speech.tools.check.findings import Case, Finding, Severity, counted
from sft_speech.tools.check.rows import Rows


class _Reason(NamedTuple):
    severity: Severity
    title: str  # follows "3 utterances"
    do: str
    heard: bool = False


# By the reasons of the corpus report; those of a duplicate id are told in another place.
REASONS = {
    "missing file": _Reason("problem", "whose audio file is missing", "find the files, or mend the paths in the table"),
    "unreadable": _Reason("problem", "whose audio can't be read", "encode the files anew (WAV, FLAC, MP3, OGG, Opus)"),
    "truncated": _Reason("problem", "whose file is cut short", "copy the files again from where they came"),
    "empty": _Reason("problem", "whose file holds no sound", "copy the files again from where they came"),
    "not finite": _Reason("problem", "with NaN or infinite samples", "encode the files anew from their source"),
    "silent": _Reason("problem", "in which nothing was recorded", "leave them out, or record them again"),
    "bad segment": _Reason("problem", "whose start and end don't lie in their file", "mend the times in the manifest"),
    "unreadable row": _Reason("problem", "whose row can't be read", "mend the table: quotes, bars, columns"),
    "no transcript": _Reason("warning", "without a transcript", "add them to the table, or remove the files"),
    "empty transcript": _Reason(
        "warning", "whose transcript says nothing", "write down what is said, or leave them out", heard=True
    ),
    "too short": _Reason("warning", "too short to train on", "lower min_seconds if they are right", heard=True),
    "too long": _Reason("warning", "too long to train on", "raise max_seconds, or cut them: sft-speech cut"),
    "more labels than frames": _Reason(
        "warning", "with more text than can be said in that time", "listen: text or audio is wrong", heard=True
    ),
    "characters outside the vocabulary": _Reason(
        "warning", "with too much that the vocabulary can't spell", "respell them, or train with --new_vocabulary"
    ),
}


def findings(rows: Rows, max_dropped_share: float) -> list[Finding]:
    """A finding for each reason, and one where so much is lost that a run would stop.

    Args:
        max_dropped_share: of the rows of a split.
    """
    numbers = {(rows.name(row), id): row for row, id in enumerate(rows.ids)}
    cases: dict[str, list[Case]] = defaultdict(list)
    for name in rows.names:
        for row in rows.report.dropped(name):
            cases[row.reason].append(Case(name, row.id, row.detail, numbers.get((name, row.id))))
    found = []
    for reason, those in cases.items():
        if reason == "duplicate id":
            continue
        known = REASONS.get(reason, _Reason("problem", f"dropped: {reason}", "see the details"))
        title = f"{counted(len(those), 'utterance')} {known.title}"
        key = f"dropped_{reason.replace(' ', '_')}"
        rule = f"“{reason}” of the corpus report: a run drops them"
        found.append(Finding(key, known.severity, title, rule, known.do, those, known.heard))
    told = rows.report.to_dict()
    for name in rows.names:
        share = told[name]["dropped"]["share"]
        if share > max_dropped_share:
            title = f"a run would stop: {share:.1%} of {name} can't be used"
            rule = f"more than max_dropped_share = {max_dropped_share:.1%} of the rows"
            do = "mend the corpus, or raise max_dropped_share if this is what you expect"
            found.append(Finding("too_much_dropped", "problem", title, rule, do))
    return found
