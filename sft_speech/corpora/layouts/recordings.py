"""A folder of recordings without any table or transcript. Read only if no transcripts are asked for."""

from __future__ import annotations

import os
from pathlib import Path

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of
from sft_speech.corpora.splits import unknown


class Recordings:
    """The audio files in and below a folder."""

    whole = True

    def __init__(self, folder: Path, columns: Columns) -> None:
        self.folder = folder.absolute()

    def splits(self) -> list[str]:
        """Return no names: the files have no subsets."""
        return []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows, sorted by their paths, which are their ids.

        Raises:
            UserError: a split is asked for.
        """
        if split is not None:
            raise unknown("split", split, [], given=str(self.folder))
        paths = list(audio_files(self.folder))
        ids = [os.path.relpath(path, self.folder) for path in paths]
        dropped: list[Dropped] = []
        nothing = [""] * len(ids)
        return Listing(rows_of(ids, paths, nothing, nothing, dropped), dropped)


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first recording in or below a folder, if no transcripts are asked for."""
    if columns.get("text", "") is not None or not folder.is_dir():
        return None
    first = next(iter(audio_files(folder)), None)
    return None if first is None else Path(first)


LAYOUT = Layout("a folder of recordings, if no transcripts are needed", find, Recordings, fallback=4)
