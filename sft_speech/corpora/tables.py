"""Tables as programs write them: CSV of any dialect, JSON, JSON lines, Parquet; their columns as strings."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from sft_speech.audio.codecs import AUDIO_SUFFIXES, is_audio
from sft_speech.corpora.columns import OPTIONAL, Columns, find_columns, label_of, names_audio
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.texts import read_lines, read_text
from sft_speech.corpora.weights import WEIGHT
from sft_speech.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_HEAD = 1 << 20  # bytes that are read to find the header
_DELIMITERS = ",\t;|"
_EXCEL = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # a first line by which Excel knows the delimiter
_BLANK = re.compile(r"(?:[\s,;|]*[\r\n])?")  # lines without values before the header
# A value between quotes in a table of tabs or bars, and one that has a quote in it, written twice.
_QUOTED = re.compile(rb'(?:(?<=[\t|\n\r])|\A)"(?:[^"\t|\r\n]|"")*"(?=[\t|\r\n]|\Z)')
# A line within a value that names an audio file: a row that an open quote has swallowed.
_SWALLOWED = r"(?i)\n[^\n]*(?:" + "|".join(re.escape(suffix) for suffix in sorted(AUDIO_SUFFIXES)) + r")\b"
_SIGNATURES = {b"PK\x03\x04": "a workbook or another zip archive", b"\xd0\xcf\x11\xe0": "an Excel workbook"}
_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".gsheet")


@dataclass
class Table:
    """The columns of a table, as strings.

    Args:
        columns: by our names for them.
        names: the table's own names of these columns, by ours.
        dropped: rows that cannot be read.
        decimal_comma: whether 1,5 may be one and a half.
        blanks: whether rows without any value may be left out.
    """

    columns: dict[str, pa.Array]
    names: dict[str, str]
    dropped: list[Dropped] = field(default_factory=list)
    decimal_comma: bool = False
    blanks: bool = False


def read_table(path: Path, columns: Columns | None) -> Table:
    """Read a table.

    Raises:
        UserError: not a supported kind of table, no column for audio or text, or several candidates for one.
    """
    suffix, quoted = path.suffix.lower(), shlex.quote(str(path))
    with open(path, "rb") as file:
        content = next((kind for start, kind in _SIGNATURES.items() if file.read(8).startswith(start)), None)
    if suffix in _WORKBOOKS or content:
        do = f"save its sheet in Excel as CSV UTF-8, or: soffice --headless --convert-to csv {quoted}"
        raise UserError(str(path), f"{content or f'a workbook (*{suffix})'}, not a table of text", do)
    if suffix == ".gz":
        raise UserError(str(path), "a compressed file", f"unpack it: gunzip -k {quoted}")
    if suffix not in SUFFIXES:
        if is_audio(path.name):
            do = f"give a folder or a table of recordings; to transcribe it: sft-speech transcribe MODEL {quoted}"
            raise UserError(str(path), "it is a recording, not a corpus", do)
        why = f"a file named *{path.suffix} is not a manifest"
        raise UserError(str(path), why, f"name it {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return _read_parquet(path, columns)
    return (_read_csv if suffix in (".csv", ".tsv") else _read_json)(path, columns)


# ---- CSV ----


@dataclass
class _Dialect:
    delimiter: str
    header: list[str]
    skipped: int  # characters before the header


def csv_header(path: Path, columns: Columns | None = None) -> list[str]:
    """Return the first row.

    Raises:
        UserError: an empty file, or not a table.
    """
    return _dialect(path, read_text(path, _HEAD), columns).header


def is_barred(path: Path, columns: Columns | None) -> bool:
    """Return whether a file is a table of bars as LJSpeech's: if it has a header, that names no column of audio, or one
    of files without their endings.
    """
    if path.suffix.lower() not in (".csv", ".txt"):
        return False
    try:
        text = read_text(path, _HEAD)
        dialect = _dialect(path, text, columns)
    except (OSError, UserError):
        return False
    lines = io.StringIO(text[dialect.skipped : dialect.skipped + _HEAD], newline=None)
    (id, bar, _), (second, _, _) = (next(lines, "").partition("|") for _ in range(2))
    by_bars = dialect.delimiter == "|"
    if names_audio(dialect.header, columns):
        return (
            by_bars and names_audio([id], columns) and bool(second.strip()) and not is_audio(os.path.basename(second))
        )
    other = not by_bars and set((columns or {}).values()) & set(dialect.header)
    return bool(bar) and not set(",;\t") & set(id) and not other


def _dialect(path: Path, text: str, columns: Columns | None) -> _Dialect:
    """Return how a table is written: the delimiter by which its header names a column of audio, or else the one of its
    suffix, or that gives most columns.
    """
    excel = _EXCEL.match(text)
    skipped = excel.end() if excel else 0
    skipped = blank.end() if (blank := _BLANK.match(text, skipped)) else skipped
    own = "\t" if path.suffix.lower() == ".tsv" else ","
    found = []
    for delimiter in excel[1] if excel else dict.fromkeys((own, *_DELIMITERS)):
        lines = io.StringIO(text[skipped : skipped + _HEAD], newline="")
        try:
            raw = delimiter in "\t|"
            header = next(
                csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if raw else csv.QUOTE_MINIMAL), []
            )
        except (csv.Error, TypeError) as error:  # a line that is too long; no delimiter
            why = f"its first line is not the header of a table ({error})"
            raise UserError(str(path), why, "name the columns in it") from error
        if delimiter in "\t|" and all(name[:1] == name[-1:] == '"' for name in header):
            header = [name.strip('"') for name in header]
        if names_audio(header, columns):
            return _Dialect(delimiter, header, skipped)
        found.append(_Dialect(delimiter, header, skipped))
    best = max(found, key=lambda dialect: len(dialect.header))
    if not any(best.header):
        raise UserError(str(path), "an empty file", "its first line names the columns, e.g. audio,text")
    return best


def _read_csv(path: Path, columns: Columns | None) -> Table:
    """Read CSV of any dialect. No value marks a missing one: "null" is a word."""
    text = read_text(path)
    dialect = _dialect(path, text, columns)
    header, delimiter = dialect.header, dialect.delimiter
    found = _find_in_header(path, dialect, columns)
    data = text[dialect.skipped :].encode()
    before = text.count("\n", 0, dialect.skipped)
    quotes = delimiter not in "\t|" or (path.suffix.lower() == ".csv" and delimiter == "\t") or _is_quoted(data)
    dropped: list[Dropped] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        if row.text.strip(f" \t\r\n{delimiter}"):
            number = row.number and row.number + before
            detail = f"row {number} has {row.actual_columns} columns, not {row.expected_columns}"
            dropped.append(Dropped(f"row {number}", "unreadable row", detail))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(use_threads=False),  # with threads, rows have no numbers
            pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quotes else False,
                newlines_in_values=quotes,
                invalid_row_handler=skip,
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=list(dict.fromkeys(found.values())),  # one may have two roles
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        do = "fix that row: UTF-8, quotes closed, one value per column"
        raise UserError(str(path), str(error).splitlines()[0], do) from error
    _check_quotes(table, path)
    strings = {ours: table[theirs].combine_chunks() for ours, theirs in found.items()}
    return Table(strings, found, dropped, decimal_comma=delimiter != ",", blanks=True)


def _find_in_header(path: Path, dialect: _Dialect, columns: Columns | None) -> dict[str, str]:
    """Map our names of the columns to the table's.

    Raises:
        UserError: no such column; or the header is missing.
    """
    header = dialect.header
    clips = [name for name in header if is_audio(os.path.basename(name))]
    if not clips or names_audio(header, columns):
        return find_columns(header, columns, str(path))
    other = "text" if len(header) == 2 else "column{}"
    names = dialect.delimiter.join("audio" if name in clips else other.format(n) for n, name in enumerate(header, 1))
    insert = f"sed -i {shlex.quote(f'1i {names}')} {shlex.quote(str(path))}"
    do = f"name the columns (audio, text, speaker, ...) in a line before it, e.g.: {insert}"
    why = f"no column for the audio: its first line is a row, not a header: {', '.join(header)}"
    raise UserError(str(path), why, do)


def _is_quoted(data: bytes) -> bool:
    """Return whether quotes enclose values in a table of tabs or bars: if they enclose all names in its header, or if
    quotes within values are written twice, and no quote is elsewhere.
    """
    header = data.split(b"\n", 1)[0].strip()
    if len(header) > 1 and all(name[:1] == name[-1:] == b'"' for name in re.split(rb"[\t|]", header)):
        return True
    if b'""' not in data:
        return False
    quoted = _QUOTED.findall(data)
    return any(b'""' in value[1:-1] for value in quoted) and sum(v.count(b'"') for v in quoted) == data.count(b'"')


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


# ---- JSON ----


def _read_json(path: Path, columns: Columns | None) -> Table:
    """Read JSON lines, or one JSON document. What isn't an object is dropped; a key may be absent from some rows."""
    rows, dropped, found = list[tuple[str | int, dict[str, Any]]](), list[Dropped](), None
    first = read_text(path, _HEAD).lstrip().split("\n", 1)[0].rstrip().removesuffix(",")
    if first.startswith("[") or not isinstance(_parsed(first), dict):
        found = _rows_of(_parsed(read_text(path)))
    if found is None:
        rows, dropped = _rows_in_lines(read_lines(path), array=first.startswith("["))
        found = _rows_of(rows[0][1]) if len(rows) == 1 and not dropped else None
    if found is not None:
        rows = [(id, one) for id, one in found if isinstance(one, dict)]
        dropped = [Dropped(id, "unreadable row", "not a JSON object") for id, one in found if not isinstance(one, dict)]
    if not rows:
        why = "no line of it is a JSON object, nor is it an array of them" if first else "an empty file"
        raise UserError(str(path), why, 'a line per row, e.g. {"audio": "a.wav", "text": "hello"}')
    return _table_of_objects(rows, dropped, columns, path)


def _parsed(text: str) -> object:
    """Return the value of a JSON text; for what isn't JSON, the reason."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # or a number of thousands of digits, or nested too deeply
        return str(error)


def _rows_in_lines(lines: Iterable[str], array: bool) -> tuple[list[tuple[str | int, dict[str, Any]]], list[Dropped]]:
    """Return the objects of JSON lines, each with the number of its line, and the other lines; commas may follow them.

    Args:
        array: the lines are those of an array, whose brackets may have lines of their own.
    """
    dropped: list[Dropped] = []
    rows: list[tuple[str | int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        row = _parsed(line)
        if not isinstance(row, dict):
            line = line.strip()
            if not line or (array and line in ("[", "]", "],")):
                continue
            row = _parsed(line.removesuffix(",")) if line.endswith("},") else row
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            dropped.append(Dropped(f"line {number}", "unreadable row", "not a JSON object"))
    return rows, dropped


def _rows_of(document: Any) -> list[tuple[str, Any]] | None:
    """Return the rows of a JSON document, each with a name for it; None if it holds none.

    It is an array of rows; an object of arrays, such as ``{"data": [...]}``, or one for each split; an object of rows
    by their ids; or of columns, each an array, or an object by row.
    """
    if isinstance(document, list):
        return [(f"item {number}", one) for number, one in enumerate(document, 1)]
    if not isinstance(document, dict):
        return None
    arrays = {key: one for key, one in document.items() if isinstance(one, list) and one and isinstance(one[0], dict)}
    if arrays:
        named = [(f"{key} {n}", one, key) for key, array in arrays.items() for n, one in enumerate(array, 1)]
        several = len(arrays) > 1
        return [(id, {"split": key, **one} if several and isinstance(one, dict) else one) for id, one, key in named]
    columns = {
        key: [*(one.values() if isinstance(one, dict) else one)]
        for key, one in document.items()
        if isinstance(one, list | dict)
    }
    if len(columns) == len(document) > 0 and names_audio(document, None) and len(set(map(len, columns.values()))) == 1:
        transposed = zip(*columns.values(), strict=True)
        return [(f"row {n}", dict(zip(columns, row, strict=True))) for n, row in enumerate(transposed, 1)]
    if document and all(isinstance(one, dict) for one in document.values()) and not names_audio(document, None):
        return [(key, {"id": key, **one}) for key, one in document.items()]
    return [("row 1", document)]


def _table_of_objects(
    rows: list[tuple[str | int, dict[str, Any]]], dropped: list[Dropped], columns: Columns | None, path: Path
) -> Table:
    """Return the values of objects as strings; rows with several values in place of one are dropped.

    Args:
        rows: objects, each with its name or the number of its line.
    """
    seen = dict.fromkeys(chain.from_iterable(row for _, row in rows))
    found = find_columns(seen, columns, str(path))
    usable = np.ones(len(rows), bool)
    table = {}
    for ours, theirs in found.items():
        table[ours] = pa.array([_as_text(row.get(theirs), ours) for _, row in rows], pa.string())
        for place in np.flatnonzero(table[ours].is_null()):
            if usable[place]:
                name, row = rows[place]
                what = "a list" if isinstance(row[theirs], list) else "an object"
                name = f"line {name}" if isinstance(name, int) else name
                dropped.append(Dropped(name, "unreadable row", f"its {theirs} is {what}, not one value"))
            usable[place] = False
    if not usable.all():
        table = {ours: column.filter(pa.array(usable)) for ours, column in table.items()}
    return Table(table, found, dropped)


def _as_text(value: Any, role: str) -> str | None:
    """Return a value as a string: a list of one is its value, and audio may be an object with a path; null and NaN are
    empty. None for other lists and objects.
    """
    if isinstance(value, str) and value.isascii():  # nearly always
        return value
    if isinstance(value, dict) and role == "audio":
        value = value.get("path")
    if role in OPTIONAL:
        value = label_of(None if value != value and role != WEIGHT else value)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | dict):
        return None
    text = "" if value is None or value != value else str(value).lower() if isinstance(value, bool) else str(value)
    # JSON can hold lone surrogates
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---- Parquet ----


def _read_parquet(path: Path, columns: Columns | None) -> Table:
    """Read a Parquet file whose audio is a column of paths."""
    try:
        found = find_columns(pq.read_schema(path).names, columns, str(path))
        table = pq.read_table(path, columns=list(dict.fromkeys(found.values())), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(str(path), f"it cannot be read: {str(error).splitlines()[0]}", "write it again") from error
    strings = {}
    for ours, theirs in found.items():
        column = table[theirs].combine_chunks()
        try:
            if pa.types.is_floating(column.type) and ours != WEIGHT:
                column = pc.if_else(pc.is_nan(column), None, column)
            strings[ours] = pc.fill_null(pc.cast(column, pa.string()), "")
        except pa.ArrowException:
            values = [_as_text(value, ours) for value in column.to_pylist()]
            if None in values:
                why = f"the column {theirs!r} holds {column.type}"
                raise UserError(
                    str(path), why, f"write one value per row, or name another column as the {ours}"
                ) from None
            strings[ours] = pa.array(values, pa.string())
    return Table(strings, found)
