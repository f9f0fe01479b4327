"""The layout of Common Voice: train.tsv, dev.tsv, test.tsv and others beside clips/; a release has it per language.

Ardila et al. 2020, https://aclanthology.org/2020.lrec-1.520.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.inside import inside
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, subfolders
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

CLIPS = "clips"
OFFICIAL = ("dev", "test", "train")
# These overlap the official ones: validated has all of them. They are read only if they are asked for by name.
OTHERS = ("invalidated", "other", "validated")
_SUFFIX = r"(?i)(?:" + "|".join(sorted(AUDIO_SUFFIXES)).replace(".", r"\.") + ")$"


class CommonVoice:
    """The rows of a language: the official splits; ``validated``, ``invalidated``, ``other`` only by name."""

    whole = False

    def __init__(self, folder: Path, columns: Columns | None = None) -> None:
        self.folder, self.columns = _language(folder) or folder, columns

    def splits(self) -> list[str]:
        """Return the official splits, or the others if there are none."""
        return _tables(self.folder, OFFICIAL) or _tables(self.folder, OTHERS)

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the table; a row's id is the name of its clip, as written.

        Raises:
            UserError: no such split, no folder of clips, or a table that cannot be read.
        """
        known = _tables(self.folder, (*OFFICIAL, *OTHERS))
        if split not in known:
            raise unknown("split", split or "", known, given=str(self.folder))
        if not (self.folder / CLIPS).is_dir():
            why = f"it has the tables of Common Voice, but no folder {CLIPS}"
            raise UserError(str(self.folder), why, f"put the recordings into {self.folder / CLIPS}")
        return _Table(self.folder / f"{split}.tsv", self.columns).listing()


class _Table(Manifest):
    """A table whose paths are names of clips, in old releases without ``.mp3``."""

    def _root(self, names: pa.Array) -> Path:
        if pc.any(pc.match_substring(names, "/")).as_py():
            return super()._root(names)
        return self.path.absolute().parent / CLIPS

    def listing(self, split: str | None = None) -> Listing:
        listing = super().listing(split)
        bare = pc.invert(pc.match_substring_regex(listing.rows["path"], _SUFFIX))
        if not pc.any(bare).as_py():
            return listing
        folder = self.path.absolute().parent
        paths = pc.if_else(bare, pc.binary_join_element_wise(listing.rows["path"], ".mp3", ""), listing.rows["path"])
        within = inside(paths.to_pylist(), str(folder))
        for row in np.flatnonzero(~within):
            id, detail = listing.rows["id"][row].as_py(), f"{paths[row].as_py()} is outside {folder}"
            listing.dropped.append(Dropped(id, "outside the corpus folder", detail))
        place = listing.rows.schema.get_field_index("path")
        listing.rows = listing.rows.set_column(place, "path", paths).filter(pa.array(within))
        return listing


def _tables(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (folder / f"{name}.tsv").is_file()]


def _is_language(folder: Path) -> bool:
    """Return whether a folder has a table of Common Voice."""
    name = next(iter(_tables(folder, (*OFFICIAL, *OTHERS))), None)
    if name is None:
        return False
    with open(folder / f"{name}.tsv", encoding="utf-8-sig", errors="replace") as lines:
        header = [column.strip('"') for column in lines.readline(1 << 16).strip().split("\t")]
    return {"path", "sentence"} <= set(header) and ("client_id" in header or (folder / CLIPS).is_dir())


def _language(folder: Path) -> Path | None:
    """Return the folder itself, or the one language of a release.

    Raises:
        UserError: a release of several languages.
    """
    if _is_language(folder):
        return folder
    languages = [path for path in subfolders(folder) if _is_language(path)]
    if len(languages) > 1:
        names = ", ".join(path.name for path in languages)
        raise UserError(str(folder), f"it has the languages {names}", f"give one of them: {languages[0]}")
    return languages[0] if languages else None


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first table.

    Raises:
        UserError: a release of several languages.
    """
    language = _language(folder)
    return language and language / f"{_tables(language, (*OFFICIAL, *OTHERS))[0]}.tsv"


LAYOUT = Layout("a Common Voice folder (train.tsv, dev.tsv, test.tsv beside clips/)", find, CommonVoice)
