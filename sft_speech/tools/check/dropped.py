"""Findings about the rows that a run would drop, from the corpus report."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from sft_speech.corpora.report import CUT
from sft_speech.tools.check.findings import Case, Finding, Severity, finding
from sft_speech.tools.check.rows import Rows


class _Reason(NamedTuple):
    severity: Severity
    what: str  # follows "3 utterances"
    do: str
    listen: bool = False


# By reason in the corpus report, except "duplicate id", which the module leaks handles.
REASONS = {
    "missing file": _Reason("problem", "whose audio file is missing", "find the files, or fix the paths in the table"),
    "unreadable": _Reason("problem", "whose audio cannot be read", "encode the files again (WAV, FLAC, MP3, Opus)"),
    "not audio": _Reason(
        "problem", "whose file is not audio", "get the recordings: git lfs pull, or download them again"
    ),
    "truncated": _Reason("problem", "whose file is truncated", "copy the files again from their source"),
    "empty": _Reason("problem", "whose file holds no audio", "copy the files again from their source"),
    "not finite": _Reason("problem", "with NaN or infinite samples", "encode the files again from their source"),
    "silent": _Reason("problem", "with nothing but silence", "leave them out, or record them again"),
    "bad segment": _Reason("problem", "whose start and end are not inside their file", "fix the times in the manifest"),
    "unreadable row": _Reason("problem", "whose row cannot be read", "fix the table: quotes, bars, columns"),
    "no transcript": _Reason("warning", "without a transcript", "add transcripts to the table, or remove the files"),
    "empty transcript": _Reason(
        "warning", "whose transcript holds no words", "transcribe them, or leave them out", listen=True
    ),
    "only signs of transcription": _Reason(
        "note", "whose transcript holds only signs such as [noise]", "nothing; or keep them: --markup keep", listen=True
    ),
    "too short": _Reason("warning", "too short to train on", "lower min_seconds if they are correct", listen=True),
    "too long": _Reason(
        "warning", "too long to train on", f"cut them: {CUT}; or raise max_seconds (Whisper takes at most 30 s)"
    ),
    "more labels than frames": _Reason(
        "warning", "with more text than can be spoken in their time", "listen: text or audio is wrong", listen=True
    ),
    "more tokens than the decoder takes": _Reason(
        "warning", "with more text than the model writes at once", f"cut them: {CUT}"
    ),
    "another script": _Reason("warning", "whose transcript is in the script of another language", "check the language"),
    "no language": _Reason("warning", "without a language", "fill in the column of the language"),
    "unknown language": _Reason("warning", "in a language that the model does not know", "fix it, or leave them out"),
    "characters outside the vocabulary": _Reason(
        "warning", "with too many characters outside the vocabulary", "respell them, or train with --new_vocabulary"
    ),
}


def findings(rows: Rows, max_dropped_share: float) -> list[Finding]:
    """Return a finding for each reason, and one for each split that would stop a run.

    Args:
        max_dropped_share: largest share of dropped rows of a split.
    """
    numbers = {(rows.name(row), id): row for row, id in enumerate(rows.ids)}
    cases: dict[str, list[Case]] = defaultdict(list)
    for name in rows.names:
        for row in rows.report.dropped(name):
            cases[row.reason].append(Case(name, row.id, row.detail, numbers.get((name, row.id))))
    found = []
    for reason, dropped in cases.items():
        if reason == "duplicate id":
            continue
        known = REASONS.get(reason, _Reason("problem", f"dropped: {reason}", "see the details"))
        key = f"dropped_{reason.replace(' ', '_')}"
        rule = f"a run drops them as “{reason}”"
        found += finding(key, known.severity, dropped, "utterance", known.what, rule, known.do, listen=known.listen)
    counts = rows.report.to_dict()
    for name in rows.names:
        share = counts[name]["dropped"]["share"]
        if share > max_dropped_share:
            title = f"a run would stop: {share:.1%} of {name} cannot be used"
            rule = f"more than max_dropped_share = {max_dropped_share:.1%} of the rows"
            do = "fix the corpus, or raise max_dropped_share if you expect this"
            found.append(Finding("too_much_dropped", "problem", title, rule, do))
    return found
