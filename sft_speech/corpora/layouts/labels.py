"""Tables of one recording's utterances beside it: ``talk.segments.csv``, or the labels that Audacity exports."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sft_speech.corpora.annotated import (
    Annotated,
    Segment,
    Unreadable,
    annotated_layout,
    first_files,
    one_line,
    text_of,
    to_seconds,
)
from sft_speech.corpora.columns import NAMES, Columns, find_columns
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout

SEGMENTS = (".segments.csv", ".segments.tsv")
TIMES = {
    "start": ("start", "start_time", "start_seconds", "offset"),
    "end": ("end", "end_time", "end_seconds"),
    "duration": ("duration", "duration_seconds"),
}
_LABEL = re.compile(r"\s*(\d+[.,]\d+)\t(\d+[.,]\d+)(?:\t(.*))?", re.ASCII)
_FREQUENCIES = re.compile(r"\\\t", re.ASCII)  # the second line of a label of a spectrogram


def read_segments(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the rows of a table with a start, an end or a duration, and a text.

    Raises:
        Unreadable: no such columns.
        UserError: several columns can be the text, or a named column is missing.
    """
    stem = os.path.basename(path)[: -len(SEGMENTS[0])]
    tabs = path.lower().endswith(".tsv")
    lines = text_of(path).split("\n")
    try:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines))
    except csv.Error as error:
        raise Unreadable(f"not a table ({error})") from error
    header = rows[0] if rows else []
    # The recording is the table's own: what a column says about it is not asked for.
    own = [name for name in header if name not in NAMES["audio"]]
    named = {role: name for role, name in columns.items() if role != "audio"}
    found = find_columns([*own, "audio"], named, path)
    if "start" not in found or not {"end", "duration"} & found.keys():
        raise Unreadable(f"no columns for the start and the end: its columns are {', '.join(header)}")
    if odd := [name for role, name in found.items() if role in TIMES and name not in TIMES[role]]:
        raise Unreadable(f"{', '.join(odd)}: not known to be seconds; call these columns start and end if they are")
    places = {role: header.index(name) for role, name in found.items() if role != "audio"}
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(header):
            yield Dropped(f"row {number}", "unreadable row", f"it has {len(row)} columns, not {len(header)}")
            continue
        values = {role: row[place] for role, place in places.items()}
        try:
            start = to_seconds(values["start"])
            end = to_seconds(values["end"]) if "end" in values else start + to_seconds(values["duration"])
        except ValueError:
            yield Dropped(f"row {number}", "bad segment", "start or end is not a number of seconds")
            continue
        yield Segment(one_line(values["text"]), start, end, values.get("speaker", ""), (stem,))


def read_audacity(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the labels of a file ``START<tab>END<tab>TEXT``.

    Raises:
        Unreadable: another kind of text.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip() or _FREQUENCIES.match(line):
            continue
        found = _LABEL.fullmatch(line)
        if found is None:
            if number == 1:
                raise Unreadable("not a list of labels: START<tab>END<tab>TEXT")
            yield Dropped(f"line {number}", "unreadable row", "not START<tab>END<tab>TEXT")
        elif text := one_line(found[3] or ""):
            yield Segment(text, float(found[1].replace(",", ".")), float(found[2].replace(",", ".")))


def _find_audacity(path: Path, columns: Columns) -> Path | None:
    first = first_files(path).get(".txt") if path.is_dir() else path if path.suffix.lower() == ".txt" else None
    if first is None:
        return None
    with open(first, "rb") as file:
        line = file.readline(4096).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").rstrip("\r\n")
    return first if _LABEL.fullmatch(line) else None


TABLES = annotated_layout(
    "tables of segments with their recordings (a.segments.csv of start,end,text; a.wav)", SEGMENTS, read_segments
)
AUDACITY = Layout(
    "labels of Audacity with their recordings (a.txt, a.wav)",
    _find_audacity,
    lambda path, columns: Annotated(path, (".txt",), read_audacity, columns),
    1,
)
