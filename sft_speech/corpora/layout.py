"""What kind of corpus lies in a folder, by what is in it."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sft_speech.corpora.archive import ARCHIVES
from sft_speech.corpora.columns import NAMES
from sft_speech.corpora.layouts.librispeech import LibriSpeech, first_transcripts
from sft_speech.corpora.layouts.ljspeech import LJSpeech
from sft_speech.corpora.layouts.manifest import SUFFIXES, AudioFolder, Manifest, csv_header, metadata_of
from sft_speech.corpora.rows import Source
from sft_speech.errors import UserError

EXPECTED = (
    "a LibriSpeech or LibriTTS folder (SUBSET/SPEAKER/CHAPTER/*.trans.txt or *.normalized.txt), "
    "an LJSpeech folder (metadata.csv of ID|text|text beside wavs/), "
    "a folder with metadata.csv or metadata.jsonl (file_name, text), a manifest (.csv, .tsv, .jsonl), "
    "a folder of parquet files, an archive of one of these (.tar, .tar.gz, .zip, ...), "
    "or a dataset on the Hub (OWNER/NAME)"
)
_PARQUET = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_source(source: str | os.PathLike[str], columns: Mapping[str, str | None] | None = None) -> Source | None:
    """The rows of a folder or a manifest; None where ``source`` is for the ``datasets`` library: parquet files or a
    name on the Hub.

    Raises:
        UserError: nothing there, or nothing that is known; says what was seen and what is expected.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return Manifest(path, columns)
    if path.is_dir():
        return _open_folder(path, columns)
    name = os.fspath(source)
    if _HUB.fullmatch(name) and not name.endswith((*SUFFIXES, *ARCHIVES)) and not path.parent.is_dir():
        return None
    near = _near(path)
    raise UserError(name, "no such file or folder", f"did you mean {near}?" if near else f"give {EXPECTED}")


def _open_folder(folder: Path, columns: Mapping[str, str | None] | None) -> Source | None:
    tables = metadata_of(folder)
    if _is_ljspeech(folder, columns):
        if not (folder / "wavs").is_dir():
            seen = "its metadata.csv is of LJSpeech's form, but there is no folder wavs"
            raise UserError(str(folder), seen, f"give {EXPECTED}")
        return LJSpeech(folder)
    subfolders = [path for path in sorted(folder.iterdir()) if path.is_dir() and metadata_of(path)]
    subsets = [path.name for path in subfolders if not _is_ljspeech(path, columns)]
    if tables and subsets:
        seen = f"it holds {tables[0]} and so do its folders {', '.join(subsets[:5])}"
        raise UserError(str(folder), seen, f"give {folder / subsets[0]}, or move {tables[0]} away")
    if tables:
        return AudioFolder(folder, columns)
    transcripts = first_transcripts(folder)
    parquet = next((path for depth in _PARQUET for path in sorted(folder.glob(depth))), None)
    kinds = [path for path in (*(folder / name for name in subsets[:1]), transcripts, parquet) if path]
    if len(kinds) > 1:
        seen = "several corpora are in it: " + ", ".join(str(path.relative_to(folder)) for path in kinds)
        raise UserError(str(folder), seen, "give the folder of the one that is meant")
    if subsets:
        return AudioFolder(folder, columns)
    if transcripts:
        return LibriSpeech(folder)
    if parquet:
        return None
    manifests = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    do = f"give a manifest itself: {folder / manifests[0]}" if manifests else f"give {EXPECTED}"
    raise UserError(str(folder), f"no corpus that is known: it holds {_seen(folder)}", do)


def _is_ljspeech(folder: Path, columns: Mapping[str, str | None] | None) -> bool:
    """The first line of its metadata.csv has bars, and is no CSV header."""
    try:
        header = csv_header(folder / "metadata.csv")
    except (OSError, UnicodeDecodeError, csv.Error, UserError):
        return False
    named = set(NAMES["audio"]) | set((columns or {}).values())
    return "|" in ",".join(header) and not named & set(header)


def _seen(folder: Path) -> str:
    kinds = Counter("folders" if path.is_dir() else f"*{path.suffix or path.name}" for path in folder.iterdir())
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5)) or "nothing"


def _near(path: Path) -> Path | None:
    if not path.parent.is_dir():
        return None
    names = [entry.name for entry in path.parent.iterdir()]
    return next((path.parent / name for name in difflib.get_close_matches(path.name, names, n=1)), None)
