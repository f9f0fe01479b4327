"""A folder of NeMo manifests: train_manifest.json, dev_manifest.json, ..., each with a JSON object per line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.corpora.rows import Layout, Listing
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

_KEY = b'"audio_filepath"'
_LOOK = 4096  # bytes at the start of a file that show whether it is a manifest


class NemoFolder:
    """The rows of a folder of manifests, which are its subsets: ``train_manifest.json`` is ``train``."""

    whole = False

    def __init__(self, folder: Path, columns: Columns | None = None) -> None:
        self.folder, self.columns = folder, columns

    def splits(self) -> list[str]:
        """Return the names of the manifests, without the word manifest."""
        return sorted({_split(path) for path in _manifests(self.folder)})

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows of a manifest.

        Raises:
            UserError: no such split, or two manifests of that name; also see :class:`Manifest`.
        """
        found = [path for path in _manifests(self.folder) if _split(path) == split]
        if not found:
            raise unknown("split", split or "", self.splits(), given=str(self.folder))
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise UserError(str(self.folder), f"the split {split} is in {names}", f"give one of them: {found[0]}")
        return Manifest(found[0], self.columns).listing()


def _split(path: Path) -> str:
    return re.sub(r"[._-]?manifest[._-]?", "", path.stem) or path.stem


def _manifests(folder: Path) -> list[Path]:
    """Return the files in a folder whose first lines have the key of NeMo."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith((".json", ".jsonl")) and entry.is_file())
    return [folder / name for name in names if not name.startswith(".") and _is_manifest(folder / name)]


def _is_manifest(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return _KEY in file.read(_LOOK)
    except OSError:
        return False


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first manifest."""
    return next(iter(_manifests(folder)), None)


LAYOUT = Layout("a folder of NeMo manifests (*_manifest.json)", find, NemoFolder, 1)
