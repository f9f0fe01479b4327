"""The layout of LibriSpeech: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside SPEAKER-CHAPTER-NNNN.flac.

LibriTTS has a transcript ID.normalized.txt for each ID.wav (Zen et al. 2019, arXiv:1904.02882); ID.original.txt, the
text before numbers and abbreviations were spelt out, is not read.

A subset is any folder that has such files below it, so that the limited sets of Libri-light (``1h/0``, ``9h``) are
subsets too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, rows_of
from sft_speech.corpora.splits import unknown

TRANSCRIPTS, TRANSCRIPT = ".trans.txt", ".normalized.txt"  # of a chapter, of an utterance
ROOTS = ("LibriSpeech", "LibriTTS", "LibriTTS_R")  # the folders that the archives unpack into


def _is_transcripts(name: str) -> bool:
    return name.endswith((TRANSCRIPTS, TRANSCRIPT)) and not name.startswith(".")


def first_transcripts(folder: Path) -> Path | None:
    """Return the first transcript file in or below a folder."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(filter(_is_transcripts, files)):
            if name.endswith(TRANSCRIPTS) or _is_of_speaker(name, parent):
                return Path(parent, name)
    return None


def _is_of_speaker(name: str, parent: str) -> bool:
    """Return whether a file is named after the folder above its own; others are not of LibriTTS."""
    speaker = os.path.basename(os.path.dirname(os.path.abspath(parent)))
    return name.startswith((f"{speaker}_", f"{speaker}-"))


class LibriSpeech:
    """The rows of a LibriSpeech or LibriTTS folder, of the folder above it, or of one subset."""

    whole = False

    def __init__(self, folder: Path) -> None:
        self.folder = next((folder / name for name in ROOTS if (folder / name).is_dir()), folder)

    def splits(self) -> list[str]:
        """Return the folders above the speakers' folders; none if ``folder`` is itself a subset."""
        first = first_transcripts(self.folder)
        if first is None or len(first.relative_to(self.folder).parts) <= 3:  # SPEAKER/CHAPTER/file
            return []
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        return [path.name for path in folders if first_transcripts(path) is not None]

    def listing(self, split: str | None) -> Listing:
        """Return the rows in the order of the folders' names and of their transcripts.

        Raises:
            UserError: no such subset.
        """
        folder = self.folder.absolute() / (split or "")  # absolute: a speaker may be above the working directory
        if split and (os.path.isabs(split) or ".." in Path(split).parts or first_transcripts(folder) is None):
            raise unknown("split", split, self.splits(), given=str(self.folder))
        ids: list[str] = []
        paths: list[str] = []
        texts: list[str] = []
        speakers: list[str] = []
        dropped: list[Dropped] = []
        unlisted: list[Dropped] = []
        for parent, folders, files in os.walk(folder, followlinks=True):
            folders.sort()
            audio = {os.path.splitext(name)[0]: os.path.join(parent, name) for name in sorted(files) if is_audio(name)}
            speaker = os.path.basename(os.path.dirname(parent))
            for name in sorted(filter(_is_transcripts, files)):
                for id, text in _transcripts(os.path.join(parent, name)):
                    path = audio.pop(id, None)
                    if path is None:
                        dropped.append(Dropped(id, "missing file", f"no audio beside {name}"))
                        continue
                    ids.append(id)
                    paths.append(path)
                    texts.append(text)
                    speakers.append(speaker)
            unlisted += [Dropped(id, "no transcript", path) for id, path in audio.items()]
        return Listing(rows_of(ids, paths, texts, speakers, dropped), dropped, unlisted)


def _transcripts(path: str) -> Iterator[tuple[str, str]]:
    """Yield id and transcript of each line ``ID WORDS OF THE TRANSCRIPT``; a file of LibriTTS is one transcript."""
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        if path.endswith(TRANSCRIPT):
            yield os.path.basename(path).removesuffix(TRANSCRIPT), " ".join(lines.read().split())
            return
        for line in lines:
            id, *text = line.strip().split(maxsplit=1) or [""]
            if id:
                yield id, "".join(text)


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first transcript file."""
    return first_transcripts(folder)


LAYOUT = Layout(
    "a LibriSpeech or LibriTTS folder (SUBSET/SPEAKER/CHAPTER/*.trans.txt or *.normalized.txt)",
    find,
    lambda folder, columns: LibriSpeech(folder),
)
