"""Tables that list audio files: CSV, TSV and JSON-lines manifests, and the audiofolder layout (metadata.csv or
metadata.jsonl).
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.corpora.columns import find_columns
from sft_speech.corpora.inside import inside
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import SCHEMA, Listing, audio_files, is_text, unnameable
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
# A line within a value that names an audio file: a row.
_SWALLOWED = r"(?i)\n[^\n]*(?:" + "|".join(re.escape(suffix) for suffix in sorted(AUDIO_SUFFIXES)) + r")\b"
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


class Manifest:
    """Rows of one table; its paths are absolute, or relative to the folder it lies in, and then don't leave that."""

    def __init__(self, path: Path, columns: Mapping[str, str | None] | None = None) -> None:
        self.path, self.columns = path, columns

    def splits(self) -> list[str]:
        return []

    def listing(self, split: str | None = None) -> Listing:
        """In the order of the table. Without a column of ids, a row's id is its path (and segment) as written in the
        table.

        Raises:
            UserError: not a table of a kind that is read here, no column for audio or text, several for one.
        """
        read = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".json": _read_jsonl}.get(
            self.path.suffix.lower()
        )
        if read is None:
            raise UserError(
                str(self.path), f"a file named *{self.path.suffix} is no manifest", f"name it {', '.join(SUFFIXES)}"
            )
        try:
            table, dropped = read(self.path, self.columns)
        except UnicodeDecodeError as error:
            raise UserError(
                str(self.path), f"not UTF-8 text ({error.reason} at byte {error.start})", "convert it to UTF-8"
            ) from error
        return _to_listing(table, dropped, self._root(table["audio"]), self.path.absolute().parent)

    def _root(self, names: pa.Array) -> Path:
        """The folder that paths are relative to; Common Voice leaves out that its files lie in ``clips``."""
        root = self.path.absolute().parent
        first = names[0].as_py() if len(names) else ""
        elsewhere = first and not os.path.exists(root / first) and os.path.isfile(root / "clips" / first)
        return root / "clips" if elsewhere else root


class AudioFolder:
    """Rows of a folder with a metadata table, or of the subfolders that have one each: its subsets."""

    def __init__(self, folder: Path, columns: Mapping[str, str | None] | None = None) -> None:
        self.folder, self.columns = folder, columns

    def splits(self) -> list[str]:
        if metadata_of(self.folder):
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and metadata_of(path))

    def listing(self, split: str | None = None) -> Listing:
        """In the order of the table.

        Raises:
            UserError: no such subset, two tables in one folder; see :class:`Manifest`.
        """
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.folder))
        folder = self.folder / split if split else self.folder
        tables = metadata_of(folder)
        if len(tables) > 1:
            raise UserError(
                str(folder),
                f"it holds {' and '.join(tables)}",
                "keep the one that is right, or give its path as the source",
            )
        listing = Manifest(folder / tables[0], self.columns).listing()
        root = str(folder.absolute())
        found = [os.path.normpath(path) for path in audio_files(root)]
        on_disk = list(filter(is_text, found))
        listed = pa.array([os.path.normpath(path) for path in listing.rows["path"].to_pylist()], pa.string())
        extra = pc.filter(pa.array(on_disk, pa.string()), pc.invert(pc.is_in(pa.array(on_disk, pa.string()), listed)))
        listing.unlisted = [unnameable(os.path.relpath(path, root), path) for path in found if not is_text(path)]
        listing.unlisted += [Dropped(os.path.relpath(path, root), "no transcript", path) for path in extra.to_pylist()]
        return listing


def metadata_of(folder: Path) -> list[str]:
    """The names of a folder's metadata tables."""
    return [name for name in METADATA if (folder / name).is_file()]


# ---- tables, every column as strings under our names for them ----


def _read_csv(path: Path, columns: Mapping[str, str | None] | None) -> tuple[dict[str, pa.Array], list[Dropped]]:
    """Quotes mean nothing in a TSV; nothing is taken for a missing value, "null" is a word."""
    tabs = path.suffix.lower() == ".tsv"
    path.read_bytes().decode("utf-8")  # of a row that has too many columns, Arrow would tell in a traceback
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
            pyarrow.csv.ReadOptions(use_threads=False),  # threads don't count rows
            pyarrow.csv.ParseOptions(
                delimiter="\t" if tabs else ",",
                quote_char=False if tabs else '"',
                newlines_in_values=not tabs,
                invalid_row_handler=skip,
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=list(dict.fromkeys(found.values())),  # one may be both
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise UserError(
            str(path), str(error).splitlines()[0], "mend that row: UTF-8, quotes closed, one value per column"
        ) from error
    _check_quotes(table, path)
    return {ours: table[theirs].combine_chunks() for ours, theirs in found.items()}, dropped


def _check_quotes(table: pa.Table, path: Path) -> None:
    """A quote that isn't closed makes one value of all the rows up to the next quote."""
    for column in table.columns:
        swallowing = pc.filter(column, pc.match_substring_regex(column, _SWALLOWED))
        if len(swallowing):
            value = swallowing[0].as_py()
            why = f"the quote before {value[:40].splitlines()[0]!r} isn't closed: the rows after it are taken for text"
            raise UserError(str(path), why, "close it, or write a quote that is part of the text twice")


def csv_header(path: Path) -> list[str]:
    """The first row.

    Raises:
        UserError: an empty file.
    """
    with open(path, encoding="utf-8-sig", newline="") as lines:
        tabs = path.suffix.lower() == ".tsv"
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
        try:
            header = next(filter(None, rows), None)
        except csv.Error as error:
            raise UserError(str(path), f"its first line is no table's ({error})", "name the columns in it") from error
    if not header:
        raise UserError(str(path), "an empty file", "its first line names the columns, e.g. audio,text")
    return header


def _read_jsonl(path: Path, columns: Mapping[str, str | None] | None) -> tuple[dict[str, pa.Array], list[Dropped]]:
    """A line that is no JSON object is dropped; a key may be absent from some of the lines."""
    dropped: list[Dropped] = []
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, nested too deep
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
    return {
        ours: pa.array([_as_text(row.get(theirs)) for row in rows], pa.string()) for ours, theirs in found.items()
    }, dropped


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON can hold half a character


def _to_listing(table: dict[str, pa.Array], dropped: list[Dropped], root: Path, folder: Path) -> Listing:
    """Strings to rows: paths made absolute, seconds read, ids given.

    Args:
        root: what relative paths begin at.
        folder: what they may not leave.
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
    nameless = pc.equal(names, "").to_numpy(zero_copy_only=False)
    wrong = (start_wrong | end_wrong) & ~nameless
    dropped += [Dropped(f"row {row + 1}", "missing file", "it names no audio file") for row in np.flatnonzero(nameless)]
    for row in np.flatnonzero(wrong):
        dropped.append(Dropped(ids[row].as_py(), "bad segment", "start or end is not a number of seconds"))
    outside = _outside(paths, absolute, nameless, folder)
    for row in np.flatnonzero(outside):
        detail = f"{names[row].as_py()} leads out of {folder}; to use it, write its absolute path into the table"
        dropped.append(Dropped(ids[row].as_py(), "outside the corpus folder", detail))
    texts, speakers = table.get("text", empty), table.get("speaker", empty)
    start_end = [pa.array(seconds, from_pandas=True) for seconds in (start, end)]  # NaN to null
    rows = pa.table([ids, paths, texts, speakers, *start_end], SCHEMA)
    return Listing(rows.filter(pa.array(~(nameless | wrong | outside))), dropped)


def _outside(paths: pa.Array, absolute: pa.Array, nameless: np.ndarray, folder: Path) -> np.ndarray:
    """Mask of the rows whose path is relative and leads out of a folder."""
    relative = ~(absolute.to_numpy(zero_copy_only=False) | nameless)
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
    """Numbers (rows,), NaN where nothing is given; and a mask of what is no number."""
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
        return float("inf")  # what _to_seconds takes for wrong
