"""Manifests: tables that list audio files, as CSV, TSV or JSON lines."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.corpora import times
from sft_speech.corpora.columns import OPTIONAL, Columns
from sft_speech.corpora.inside import inside
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import CHANNEL, SCHEMA, Layout, Listing
from sft_speech.corpora.splits import unknown
from sft_speech.corpora.tables import Table, is_barred, read_table

logger = logging.getLogger(__name__)

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
_MISTAKEN = 0.02  # share of the rows: fewer repeated ids are mistakes, and such rows are dropped as duplicates
_LOOKED_FOR = 1000  # rows whose files are looked for to find out what their paths are relative to


class Manifest:
    """The rows of one table. Its paths are absolute, or relative to the folder of the table and within it.

    A column ``split`` names the subset of each row.
    """

    whole = True

    def __init__(self, path: Path, columns: Columns | None = None) -> None:
        self.path, self.columns = path, columns

    @cached_property
    def _table(self) -> Table:
        return read_table(self.path, self.columns)

    def splits(self) -> list[str]:
        """Return the distinct values of the column ``split``; none without that column."""
        column = self._table.columns.get("split")
        return [] if column is None else sorted(filter(None, pc.unique(column).to_pylist()))

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the table. Without a column of ids, a row's id is its path (and segment) as
        written in the table.

        Raises:
            UserError: the table cannot be read, see :meth:`_table`, or there is no such split.
        """
        table = self._table
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.path))
        rows = len(table.columns["audio"])
        wanted = np.ones(rows, bool) if split is None else _mask(pc.equal(table.columns["split"], split))
        return _to_listing(table, wanted, self._root(table.columns["audio"]), self.path)

    def _root(self, names: pa.Array) -> Path:
        """Return the folder that paths are relative to: the table's, or in Common Voice ``clips`` beside it. The first
        file that is in either of them decides, among as many as can be looked for quickly.
        """
        root = self.path.absolute().parent
        if (root / "clips").is_dir():
            for name in pc.unique(names.slice(0, _LOOKED_FOR)).to_pylist():
                if name and "\0" not in name and os.path.exists(root / name):
                    return root
                if name and "\0" not in name and os.path.isfile(root / "clips" / name):
                    return root / "clips"
        return root


def _mask(booleans: pa.Array) -> np.ndarray:
    return booleans.to_numpy(zero_copy_only=False)


def _to_listing(table: Table, wanted: np.ndarray, root: Path, path: Path) -> Listing:
    """Turn strings into rows: paths become absolute, seconds numbers, and each row gets an id.

    Args:
        wanted: (rows,) mask of the rows to return.
        root: what paths are relative to.
        path: the table, whose folder relative paths may not leave.
    """
    columns, dropped, folder = table.columns, [*table.dropped], path.absolute().parent
    names, empty = columns["audio"], pa.array([""] * len(columns["audio"]), pa.string())
    start, end, wrong, unit = _segments(table, str(path))
    ids = _ids(columns.get("id", empty), names, start, end, str(path))
    absolute = pc.starts_with(names, "/")
    paths = pc.if_else(absolute, names, pc.binary_join_element_wise(str(root), names, "/"))
    nameless = _mask(pc.equal(names, "")) & wanted
    wrong &= ~nameless & wanted
    for row in np.flatnonzero(nameless):
        if not table.blanks or any(column[row].as_py().strip() for column in columns.values()):
            dropped.append(Dropped(f"row {row + 1}", "missing file", "it names no audio file"))
    for row in np.flatnonzero(wrong):
        dropped.append(Dropped(ids[row].as_py(), "bad segment", "start or end is not a number of seconds or h:mm:ss"))
    outside = _outside(paths, _mask(pc.invert(absolute)) & ~nameless & wanted, folder)
    for row in np.flatnonzero(outside):
        detail = f"{names[row].as_py()} is outside {folder}; to use it, write its absolute path into the table"
        dropped.append(Dropped(ids[row].as_py(), "outside the corpus folder", detail))
    texts, speakers = columns.get("text", empty), columns.get("speaker", empty)
    start_end = [pa.array(seconds, from_pandas=True) for seconds in (start, end)]  # NaN to null
    rows = pa.table([ids, paths, texts, speakers, *start_end], SCHEMA)
    for ours in (*OPTIONAL, CHANNEL):
        if ours in columns:
            rows = rows.append_column(ours, columns[ours])
    return Listing(rows.filter(pa.array(wanted & ~(nameless | wrong | outside))), dropped, unit=unit)


def _segments(table: Table, shown: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Return starts and ends (rows,), NaN for none, a mask (rows,) of rows in which they are wrong, and their unit.

    Raises:
        UserError: the unit is not known, or not the same.
    """
    roles = [role for role in times.ROLES if role in table.columns and (role != "duration" or "start" in table.columns)]
    if "end" in roles:
        roles = [role for role in roles if role != "duration"]
    unit = times.common_unit([table.names[role] for role in roles], shown)
    values = {role: np.full(len(table.columns["audio"]), np.nan) for role in times.ROLES}
    wrong = np.zeros(len(table.columns["audio"]), bool)
    for role in roles:
        own = times.unit_of(table.names[role])
        values[role], bad = times.read_times(table.columns[role], own, table.decimal_comma)
        wrong |= bad
    start, end, duration = values.values()
    if roles == ["start"]:
        logger.warning("%s: it has starts and no ends or durations: each row reaches to the end of its file", shown)
    return start, start + duration if "duration" in roles else end, wrong, unit


def _outside(paths: pa.Array, relative: np.ndarray, folder: Path) -> np.ndarray:
    """Return a mask (rows,) of the paths that are outside a folder, among those masked as relative."""
    own = paths.filter(pa.array(relative))
    distinct = pc.unique(own)
    places = pc.index_in(own, distinct).to_numpy(zero_copy_only=False)
    mask = np.zeros(len(paths), bool)
    mask[relative] = ~inside(distinct.to_pylist(), str(folder))[places]
    return mask


def _ids(given: pa.Array, names: pa.Array, start: np.ndarray, end: np.ndarray, shown: str) -> pa.Array:
    """Return the given ids, or the files' names (and segments): for rows without an id, and for all rows if the
    ids name something else, such as the sentence, because many are repeated for other audio.
    """
    made = names
    if not (np.isnan(start).all() and np.isnan(end).all()):
        spans = [
            "" if s != s and e != e else f"#{0 if s != s else s:.3f}-{'' if e != e else f'{e:.3f}'}"
            for s, e in zip(start, end, strict=True)
        ]
        made = pc.binary_join_element_wise(names, pa.array(spans, pa.string()), "")
    ids = pc.if_else(pc.equal(given, ""), made, given)
    distinct = len(pc.unique(ids))
    if not pc.any(pc.not_equal(given, "")).as_py():
        return made
    if distinct < len(ids):
        pairs = pa.table([ids, made], ["id", "made"]).group_by(["id", "made"]).aggregate([])
        if len(pairs) - distinct > _MISTAKEN * len(ids):
            why = f"{distinct:,} ids in {len(ids):,} rows, and the same id for other audio"
            logger.warning("%s: its ids are not ids of utterances (%s): rows are named by their files", shown, why)
            return made
    return ids


def find(path: Path, columns: Columns) -> Path | None:
    """Return the path itself, if it is a file that no other layout reads."""
    other = path.suffix.lower() == ".parquet" or is_barred(path, columns)
    return path if path.is_file() and not other else None


LAYOUT = Layout("a manifest (.csv, .tsv, .jsonl)", find, Manifest)
