"""The layout of LJSpeech: metadata.csv with lines ``ID|text|normalized text``, no header, beside wavs/ID.wav."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from sft_speech.corpora.columns import NAMES, Columns
from sft_speech.corpora.tables import csv_header
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of
from sft_speech.errors import UserError


class LJSpeech:
    """The rows of an LJSpeech folder: one speaker, no subsets, the normalized text if a line has one."""

    whole = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def splits(self) -> list[str]:
        """Return no names: there are no subsets."""
        return []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of metadata.csv."""
        audio = {os.path.splitext(os.path.basename(path))[0]: path for path in audio_files(self.folder / "wavs")}
        ids: list[str] = []
        paths: list[str] = []
        texts: list[str] = []
        dropped: list[Dropped] = []
        listed = set()
        with open(self.folder / "metadata.csv", encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                id, *columns = line.rstrip("\r\n").split("|")
                if not id and not columns:
                    continue
                if not columns:
                    why = f"line {number} is not ID|text|normalized text"
                    dropped.append(Dropped(id or f"line {number}", "unreadable row", why))
                    listed.add(id)
                    continue
                if id not in audio:
                    dropped.append(Dropped(id, "missing file", f"no wavs/{id}.wav"))
                    continue
                listed.add(id)
                ids.append(id)
                paths.append(audio[id])
                texts.append(columns[-1] or columns[0])
        unlisted = [Dropped(id, "no transcript", path) for id, path in audio.items() if id not in listed]
        return Listing(rows_of(ids, paths, texts, [""] * len(ids), dropped), dropped, unlisted)


def is_ljspeech(folder: Path, columns: Columns) -> bool:
    """Return whether the first line of metadata.csv has bars and is not the header of a CSV file."""
    try:
        header = csv_header(folder / "metadata.csv")
    except (OSError, UnicodeDecodeError, csv.Error, UserError):
        return False
    named = set(NAMES["audio"]) | set(columns.values())
    return "|" in ",".join(header) and not named & set(header)


def find(folder: Path, columns: Columns) -> Path | None:
    """Return metadata.csv, if it has this form.

    Raises:
        UserError: it has, but the audio folder is missing.
    """
    if not is_ljspeech(folder, columns):
        return None
    if not (folder / "wavs").is_dir():
        seen = "its metadata.csv has LJSpeech's form, but there is no folder wavs"
        raise UserError(str(folder), seen, "put the audio into wavs/, or name the columns in the first line")
    return folder / "metadata.csv"


LAYOUT = Layout(
    "an LJSpeech folder (metadata.csv of ID|text|text beside wavs/)", find, lambda folder, columns: LJSpeech(folder)
)
