"""The layout of Common Voice: train.tsv, dev.tsv, test.tsv and others beside clips/; a release has it per language.

Ardila et al. 2020, https://aclanthology.org/2020.lrec-1.520.
"""

from __future__ import annotations

import csv
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts.manifest import Manifest, csv_header
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
        """Return the rows in the order of the table; a row's id is the name of its clip.

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

    @cached_property
    def _table(self) -> tuple[dict[str, pa.Array], list[Dropped]]:
        table, dropped = super()._table
        names = table["audio"]
        bare = pc.and_(pc.invert(pc.match_substring_regex(names, _SUFFIX)), pc.not_equal(names, ""))
        names = pc.if_else(bare, pc.binary_join_element_wise(names, ".mp3", ""), names)
        clips = pc.if_else(
            pc.or_(pc.equal(names, ""), pc.match_substring(names, "/")),
            names,
            pc.binary_join_element_wise(CLIPS, names, "/"),
        )
        return {"id": names} | table | {"audio": clips}, dropped


def _tables(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (folder / f"{name}.tsv").is_file()]


def _is_language(folder: Path) -> bool:
    """Return whether a folder has a table of Common Voice."""
    name = next(iter(_tables(folder, (*OFFICIAL, *OTHERS))), None)
    if name is None:
        return False
    try:
        header = csv_header(folder / f"{name}.tsv")
    except (OSError, UnicodeDecodeError, csv.Error, UserError):
        return False
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
