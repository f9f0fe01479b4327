"""The audiofolder layout: metadata.csv, .tsv or .jsonl beside the audio, or in each of several subfolders."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts.ljspeech import is_ljspeech
from sft_speech.corpora.layouts.manifest import METADATA, Manifest
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, is_text, subfolders, unnameable
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError


class AudioFolder:
    """The rows of a folder with a metadata table, or of subfolders with one each, which are its subsets.

    The folder's own table may name subsets in a column ``split``.
    """

    def __init__(self, folder: Path, columns: Columns | None = None) -> None:
        self.folder, self.columns = folder, columns

    @cached_property
    def _table(self) -> Manifest | None:
        """The table in the folder itself."""
        return _manifest(self.folder, self.columns) if metadata_of(self.folder) else None

    @property
    def whole(self) -> bool:
        """Whether the folder's own table lists all rows."""
        return self._table is not None

    def splits(self) -> list[str]:
        """Return the subfolders that have a table, or the values of the column ``split``."""
        if self._table is not None:
            return self._table.splits()
        return [path.name for path in subfolders(self.folder) if metadata_of(path)]

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the table.

        Raises:
            UserError: no such subset, or two tables in one folder; also see :class:`Manifest`.
        """
        if self._table is not None and split is not None:  # the other files belong to other splits
            return self._table.listing(split)
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.folder))
        folder = self.folder / split if split else self.folder
        listing = (self._table or _manifest(folder, self.columns)).listing()
        root = str(folder.absolute())
        found = [os.path.normpath(path) for path in audio_files(root)]
        on_disk = list(filter(is_text, found))
        listed = pa.array([os.path.normpath(path) for path in listing.rows["path"].to_pylist()], pa.string())
        extra = pc.filter(pa.array(on_disk, pa.string()), pc.invert(pc.is_in(pa.array(on_disk, pa.string()), listed)))
        listing.unlisted = [unnameable(os.path.relpath(path, root), path) for path in found if not is_text(path)]
        listing.unlisted += [Dropped(os.path.relpath(path, root), "no transcript", path) for path in extra.to_pylist()]
        return listing


def _manifest(folder: Path, columns: Columns | None) -> Manifest:
    tables = metadata_of(folder)
    if len(tables) > 1:
        do = "keep the one that is right, or give its path as the source"
        raise UserError(str(folder), f"it holds {' and '.join(tables)}", do)
    return Manifest(folder / tables[0], columns)


def metadata_of(folder: Path) -> list[str]:
    """Return the names of a folder's metadata tables."""
    return [name for name in METADATA if (folder / name).is_file()]


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the table of the folder, or else the first subfolder that has one.

    Raises:
        UserError: both have tables.
    """
    if not folder.is_dir():
        return None
    tables = metadata_of(folder)
    subsets = [path for path in subfolders(folder) if metadata_of(path) and not is_ljspeech(path, columns)]
    if tables and subsets:
        seen = f"it holds {tables[0]} and so do its folders {', '.join(path.name for path in subsets[:5])}"
        raise UserError(str(folder), seen, f"give {subsets[0]}, or move {tables[0]} away")
    return folder / tables[0] if tables else subsets[0] if subsets else None


LAYOUT = Layout("a folder with metadata.csv or metadata.jsonl (file_name, text)", find, AudioFolder)
