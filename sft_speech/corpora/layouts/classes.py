"""A folder per label: ``yes/a.wav``, ``no/b.wav``; or ``train/yes/a.wav``, with folders named like splits.

Read only if labels are asked for, since it has no transcripts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from sft_speech.corpora.columns import Columns, labelled
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of
from sft_speech.corpora.splits import SPLITS, unknown
from sft_speech.errors import UserError


class ClassFolders:
    """The rows of a folder whose audio files are labelled with the name of the topmost subfolder that they are in.

    Folders whose names begin with ``_`` or ``.`` are not classes (``_background_noise_`` of Speech Commands).
    """

    whole = False

    def __init__(self, folder: Path, columns: Columns) -> None:
        if columns["label"] not in (None, "label"):
            raise UserError(
                str(folder),
                f"there is no column {columns['label']!r}: its labels are the names of its folders",
                "use label=label",
            )
        self.folder = folder.absolute()

    def splits(self) -> list[str]:
        """Return the names of the folders, if all of them are names of splits."""
        names = [path.name for path in _folders(self.folder)]
        return names if SPLITS.issuperset(map(str.lower, names)) else []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows, sorted by their paths, which are their ids.

        Raises:
            UserError: no such split.
        """
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.folder))
        root = self.folder / (split or "")
        ids: list[str] = []
        paths: list[str] = []
        dropped: list[Dropped] = []
        unlisted: list[Dropped] = []
        for path in audio_files(root):
            id = os.path.relpath(path, root)
            label, *rest = id.split(os.sep)
            if rest and not label.startswith(("_", ".")):
                ids.append(id)
                paths.append(path)
            else:
                unlisted.append(Dropped(id, "no label", f"{label} is not a class" if rest else "it is in no folder"))
        rows = rows_of(ids, paths, [""] * len(ids), [""] * len(ids), dropped)
        labels = pa.array([id.split(os.sep)[0] for id in rows["id"].to_pylist()], pa.string())
        return Listing(rows.append_column("label", labels), dropped, unlisted)


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(("_", "."))]


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first folder that holds audio, if labels are asked for."""
    if not labelled(columns) or not folder.is_dir():
        return None
    return next((path for path in _folders(folder) if next(iter(audio_files(path)), None)), None)


LAYOUT = Layout("a folder per label (LABEL/*.wav) if labels are asked for", find, ClassFolders, 3)
