"""Manifests: tables that list audio files, as CSV, TSV or JSON lines."""

from __future__ import annotations

import csv
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.corpora.columns import OPTIONAL, Columns, find_columns, label_of
from sft_speech.corpora.inside import inside
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import CHANNEL, SCHEMA, Layout, Listing
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
# A line within a value that names an audio file: a row that an open quote has swallowed.
_SWALLOWED = r"(?i)\n[^\n]*(?:" + "|".join(re.escape(suffix) for suffix in sorted(AUDIO_SUFFIXES)) + r")\b"
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


class Manifest:
    """The rows of one table. Its paths are absolute, or relative to the folder of the table and within it.

    A column ``split`` names the subset of each row.
    """

    whole = True

    def __init__(self, path: Path, columns: Columns | None = None) -> None:
        self.path, self.columns = path, columns

    @cached_property
    def _table(self) -> tuple[dict[str, pa.Array], list[Dropped]]:
        """All columns as strings, by our names for them, and the rows that cannot be read.

        Raises:
            UserError: not a supported kind of table, no column for audio or text, or several candidates for one.
        """
        suffix = self.path.suffix.lower()
        if suffix not in SUFFIXES:
            why = f"a file named *{self.path.suffix} is not a manifest"
            raise UserError(str(self.path), why, f"name it {', '.join(SUFFIXES)}")
        try:
            return (_read_csv if suffix in (".csv", ".tsv") else _read_jsonl)(self.path, self.columns)
        except UnicodeDecodeError as error:
            why = f"not UTF-8 text ({error.reason} at byte {error.start})"
            raise UserError(str(self.path), why, "convert it to UTF-8") from error

    def splits(self) -> list[str]:
        """Return the distinct values of the column ``split``; none without that column."""
        column = self._table[0].get("split")
        return [] if column is None else sorted(filter(None, pc.unique(column).to_pylist()))

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the table. Without a column of ids, a row's id is its path (and segment) as
        written in the table.

        Raises:
            UserError: the table cannot be read, see :meth:`_table`, or there is no such split.
        """
        table, dropped = self._table
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.path))
        rows = len(table["audio"])
        wanted = np.ones(rows, bool) if split is None else _mask(pc.equal(table["split"], split))
        return _to_listing(table, wanted, [*dropped], self._root(table["audio"]), self.path.absolute().parent)

    def _root(self, names: pa.Array) -> Path:
        """Return the folder that paths are relative to: the table's, or in Common Voice ``clips`` beside it."""
        root = self.path.absolute().parent
        first = names[0].as_py() if len(names) else ""
        elsewhere = first and not os.path.exists(root / first) and os.path.isfile(root / "clips" / first)
        return root / "clips" if elsewhere else root


def _mask(booleans: pa.Array) -> np.ndarray:
    return booleans.to_numpy(zero_copy_only=False)


# ---- tables: all columns as strings, by our names for them ----


def _read_csv(path: Path, columns: Columns | None) -> tuple[dict[str, pa.Array], list[Dropped]]:
    """Read CSV or TSV. Quotes have no meaning in a TSV, and no value marks a missing one: "null" is a word."""
    tabs = path.suffix.lower() == ".tsv"
    path.read_bytes().decode("utf-8")  # Arrow's own error for a row with too many columns would be a traceback
    header = csv_header(path)
    found = find_columns(header, columns, str(path))
    dropped: list[Dropped] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        detail = f"row {row.number} has {row.actual_columns} columns, not {row.expected_columns}"
        dropped.append(Dropped(f"row {row.number}", "unreadable row", detail))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(use_threads=False),  # with threads, rows have no numbers
            pyarrow.csv.ParseOptions(
                delimiter="\t" if tabs else ",",
                quote_char=False if tabs else '"',
                newlines_in_values=not tabs,
                invalid_row_handler=skip,
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=list(dict.fromkeys(found.values())),  # one may have two roles
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise UserError(
            str(path), str(error).splitlines()[0], "fix that row: UTF-8, quotes closed, one value per column"
        ) from error
    _check_quotes(table, path)
    return {ours: table[theirs].combine_chunks() for ours, theirs in found.items()}, dropped


def _check_quotes(table: pa.Table, path: Path) -> None:
    """Check for a quote that isn't closed, which turns all rows up to the next quote into one value.

    Raises:
        UserError: a value contains rows.
    """
    for column in table.columns:
        swallowing = pc.filter(column, pc.match_substring_regex(column, _SWALLOWED))
        if len(swallowing):
            value = swallowing[0].as_py()
            why = f"the quote before {value[:40].splitlines()[0]!r} isn't closed: the rows after it are read as text"
            raise UserError(str(path), why, "close it, or write a quote that is part of the text twice")


def csv_header(path: Path) -> list[str]:
    """Return the first row.

    Raises:
        UserError: an empty file, or not a table.
    """
    with open(path, encoding="utf-8-sig", newline="") as lines:
        tabs = path.suffix.lower() == ".tsv"
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
        try:
            header = next(filter(None, rows), None)
        except csv.Error as error:
            why = f"its first line is not the header of a table ({error})"
            raise UserError(str(path), why, "name the columns in it") from error
    if not header:
        raise UserError(str(path), "an empty file", "its first line names the columns, e.g. audio,text")
    return header


def _read_jsonl(path: Path, columns: Columns | None) -> tuple[dict[str, pa.Array], list[Dropped]]:
    """Read JSON lines. Lines that aren't JSON objects are dropped; a key may be absent from some lines."""
    dropped: list[Dropped] = []
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else None
            except (
                ValueError,
                RecursionError,
            ) as error:  # not JSON, a number of thousands of digits, nested too deeply
                row = str(error)
            if isinstance(row, dict):
                rows.append(row)
            elif row is not None:
                dropped.append(Dropped(f"line {number}", "unreadable row", "not a JSON object"))
    if not rows:
        raise UserError(
            str(path), "no line of it is a JSON object", 'a line per row, e.g. {"audio": "a.wav", "text": "hello"}'
        )
    seen = dict.fromkeys(key for row in rows for key in row)
    found = find_columns(seen, columns, str(path))
    table = {}
    for ours, theirs in found.items():
        values = [row.get(theirs) for row in rows]
        table[ours] = pa.array([_as_text(label_of(one) if ours in OPTIONAL else one) for one in values], pa.string())
    return table, dropped


def _as_text(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON can hold lone surrogates


def _to_listing(
    table: dict[str, pa.Array], wanted: np.ndarray, dropped: list[Dropped], root: Path, folder: Path
) -> Listing:
    """Turn strings into rows: paths become absolute, seconds numbers, and each row gets an id.

    Args:
        wanted: (rows,) mask of the rows to return.
        dropped: the rows dropped so far; more are added.
        root: what paths are relative to.
        folder: the folder that relative paths may not leave.
    """
    names, empty = table["audio"], pa.array([""] * len(table["audio"]), pa.string())
    start, start_wrong = _to_seconds(table.get("start", empty))
    end, end_wrong = _to_seconds(table.get("end", empty))
    if "end" not in table and "start" in table and "duration" in table:
        duration, end_wrong = _to_seconds(table["duration"])
        end = np.where(np.isnan(start), np.nan, start + duration)
    ids = table["id"] if "id" in table else _ids(names, start, end)
    ids = pc.if_else(pc.equal(ids, ""), names, ids)
    absolute = pc.starts_with(names, "/")
    paths = pc.if_else(absolute, names, pc.binary_join_element_wise(str(root), names, "/"))
    nameless = _mask(pc.equal(names, "")) & wanted
    wrong = (start_wrong | end_wrong) & ~nameless & wanted
    dropped += [Dropped(f"row {row + 1}", "missing file", "it names no audio file") for row in np.flatnonzero(nameless)]
    for row in np.flatnonzero(wrong):
        dropped.append(Dropped(ids[row].as_py(), "bad segment", "start or end is not a number of seconds"))
    outside = _outside(paths, _mask(pc.invert(absolute)) & ~nameless & wanted, folder)
    for row in np.flatnonzero(outside):
        detail = f"{names[row].as_py()} is outside {folder}; to use it, write its absolute path into the table"
        dropped.append(Dropped(ids[row].as_py(), "outside the corpus folder", detail))
    texts, speakers = table.get("text", empty), table.get("speaker", empty)
    start_end = [pa.array(seconds, from_pandas=True) for seconds in (start, end)]  # NaN to null
    rows = pa.table([ids, paths, texts, speakers, *start_end], SCHEMA)
    for ours in (*OPTIONAL, CHANNEL):
        if ours in table:
            rows = rows.append_column(ours, table[ours])
    return Listing(rows.filter(pa.array(wanted & ~(nameless | wrong | outside))), dropped)


def _outside(paths: pa.Array, relative: np.ndarray, folder: Path) -> np.ndarray:
    """Return a mask (rows,) of the paths that are outside a folder, among those masked as relative."""
    own = paths.filter(pa.array(relative))
    distinct = pc.unique(own)
    places = pc.index_in(own, distinct).to_numpy(zero_copy_only=False)
    mask = np.zeros(len(paths), bool)
    mask[relative] = ~inside(distinct.to_pylist(), str(folder))[places]
    return mask


def _ids(names: pa.Array, start: np.ndarray, end: np.ndarray) -> pa.Array:
    if np.isnan(start).all() and np.isnan(end).all():
        return names
    spans = [
        "" if s != s and e != e else f"#{0 if s != s else s:.3f}-{'' if e != e else f'{e:.3f}'}"
        for s, e in zip(start, end, strict=True)
    ]
    return pc.binary_join_element_wise(names, pa.array(spans, pa.string()), "")


def _to_seconds(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds (rows,), NaN for empty values, and a mask (rows,) of values that are not a number of seconds."""
    try:
        numbers = pc.cast(pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column), pa.float64())
        values = numbers.to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        values = np.array([_to_float(value) for value in column.to_pylist()])
    wrong = np.isinf(values) | (values < 0)
    return values, wrong


def _to_float(value: str) -> float:
    try:
        return float(value) if value.strip() else float("nan")
    except ValueError:
        return float("inf")  # _to_seconds marks it as wrong


def find(path: Path, columns: Columns) -> Path | None:
    """Return the path itself, if it is a file."""
    return path if path.is_file() else None


LAYOUT = Layout("a manifest (.csv, .tsv, .jsonl)", find, Manifest)
