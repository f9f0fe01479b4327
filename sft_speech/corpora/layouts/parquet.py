"""Parquet files, as in datasets on the Hub: the ``datasets`` library reads them, unless they only name audio files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sft_speech.corpora.columns import Columns, find_columns
from sft_speech.corpora.hub import local_files
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.corpora.rows import Layout, Listing, Source
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

_DEPTHS = ("*.parquet", "*/*.parquet", "*/*/*.parquet")


class ParquetTables:
    """The rows of a folder of Parquet files whose audio is a column of paths, relative to the folder of each file."""

    whole = False

    def __init__(self, folder: Path, columns: Columns) -> None:
        self.folder, self.columns = folder, columns

    def splits(self) -> list[str]:
        """Return the names by which the files are grouped."""
        return sorted(local_files(self.folder, None))

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows of a split, in the order of its files.

        Raises:
            UserError: no such split, or see :class:`Manifest`.
        """
        files = local_files(self.folder, None)
        if split is not None and split not in files:
            raise unknown("split", split, files, given=str(self.folder))
        names = [split] if split is not None else sorted(files)
        listings = [Manifest(Path(file), self.columns).listing() for name in names for file in files[name]]
        dropped = [row for listing in listings for row in listing.dropped]
        return Listing(pa.concat_tables([one.rows for one in listings]), dropped, unit=listings[0].unit)


def find(path: Path, columns: Columns) -> Path | None:
    """Return the path of a Parquet file; or the first one in a folder, at most two folders down."""
    if path.is_file():
        return path if path.suffix.lower() == ".parquet" else None
    return next((file for depth in _DEPTHS for file in sorted(path.glob(depth))), None)


def _names_files(path: Path, columns: Columns | None) -> bool:
    """Return whether the audio of a Parquet file is a column of paths."""
    try:
        schema = pq.read_schema(path)
        kind = schema.field(find_columns(schema.names, columns, str(path))["audio"]).type
    except (OSError, pa.ArrowException, UserError):
        return False
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _open(path: Path, columns: Columns) -> Source | None:
    first = find(path, columns)
    if first is None or not _names_files(first, columns):
        return None
    return Manifest(path, columns) if path.is_file() else ParquetTables(path, columns)


LAYOUT = Layout("a folder of parquet files", find, _open)
