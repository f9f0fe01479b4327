"""The layout of CMU ARCTIC and festvox: etc/txt.done.data of lines ``( ID "Text." )`` beside wav/ID.wav.

A folder is one voice, or holds a folder per voice (Kominek and Black 2004, CMU-LTI-03-177).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of, subfolders
from sft_speech.corpora.texts import lines_of

PROMPTS = Path("etc", "txt.done.data")
_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
_VOICE = re.compile(r"cmu_[a-z]+_([^_]+)_arctic.*")  # cmu_us_bdl_arctic


class Arctic:
    """The rows of one voice, or of all voices in a folder; their sentences are the same, so ids begin with a voice."""

    whole = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def splits(self) -> list[str]:
        """Return no names: there are no subsets."""
        return []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the voices and of their sentences.

        Raises:
            UserError: a list of sentences is not text.
        """
        one = (self.folder / PROMPTS).is_file()
        voices = [self.folder] if one else _voices(self.folder)
        ids: list[str] = []
        paths: list[str] = []
        texts: list[str] = []
        speakers: list[str] = []
        dropped: list[Dropped] = []
        unlisted: list[Dropped] = []
        for voice in voices:
            speaker = _VOICE.sub(r"\1", voice.name)
            prefix = "" if one else f"{speaker}/"
            audio = {os.path.splitext(os.path.basename(path))[0]: path for path in audio_files(voice / "wav")}
            listed = set()
            for number, line in enumerate(lines_of(voice / PROMPTS), 1):
                found = _LINE.fullmatch(line)
                if found is None:
                    if line:
                        why = f'line {number} is not ( ID "text" )'
                        dropped.append(Dropped(f"{prefix}line {number}", "unreadable row", why))
                    continue
                id = found[1]
                if id not in audio:
                    dropped.append(Dropped(prefix + id, "missing file", f"no wav/{id}.wav"))
                    continue
                listed.add(id)
                ids.append(prefix + id)
                paths.append(audio[id])
                texts.append(re.sub(r"\\(.)", r"\1", found[2]))
                speakers.append(speaker)
            unlisted += [Dropped(prefix + id, "no transcript", path) for id, path in audio.items() if id not in listed]
        return Listing(rows_of(ids, paths, texts, speakers, dropped), dropped, unlisted)


def _voices(folder: Path) -> list[Path]:
    return [voice for voice in subfolders(folder) if (voice / PROMPTS).is_file()]


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the list of sentences of the folder, or else of its first voice."""
    if (folder / PROMPTS).is_file():
        return folder / PROMPTS
    return next((voice / PROMPTS for voice in _voices(folder)), None)


LAYOUT = Layout(
    "a CMU ARCTIC folder or several (etc/txt.done.data beside wav/)", find, lambda folder, columns: Arctic(folder)
)
