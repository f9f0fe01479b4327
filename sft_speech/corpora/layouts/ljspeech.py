"""The layout of LJSpeech: metadata.csv with lines ``ID|text|normalized text``, no header, beside wavs/ID.wav."""

from __future__ import annotations

import os
from pathlib import Path

from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Listing, audio_files, rows_of


class LJSpeech:
    """Rows of an LJSpeech folder: one speaker, no subsets, the normalized text where a line has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def splits(self) -> list[str]:
        return []

    def listing(self, split: str | None = None) -> Listing:
        """In the order of metadata.csv."""
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
                    dropped.append(
                        Dropped(
                            id or f"line {number}", "unreadable row", f"line {number} is not ID|text|normalized text"
                        )
                    )
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
