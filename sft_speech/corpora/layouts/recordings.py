"""A folder of recordings, and nothing else. Read only if no transcripts are needed."""

from __future__ import annotations

import os
from pathlib import Path

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of


class Recordings:
    """The audio files in and below a folder, named by their paths in it."""

    whole = True

    def __init__(self, folder: Path, columns: Columns | None = None) -> None:
        self.folder = folder.absolute()

    def splits(self) -> list[str]:
        """Return no names."""
        return []

    def listing(self, split: str | None = None) -> Listing:
        """Return a row for each file, without text, sorted by their paths."""
        paths = list(audio_files(self.folder))
        dropped: list[Dropped] = []
        ids, nothing = [os.path.relpath(path, self.folder) for path in paths], [""] * len(paths)
        return Listing(rows_of(ids, paths, nothing, nothing, dropped), dropped)


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the folder itself, if it holds audio and no transcripts are needed."""
    needed = columns.get("text", "text") is not None
    return None if needed or not folder.is_dir() or next(iter(audio_files(folder)), None) is None else folder


LAYOUT = Layout("a folder of recordings, where no transcripts are needed", find, Recordings, fallback=4)
