"""The layout of LibriSpeech: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside SPEAKER-CHAPTER-NNNN.flac.

That of LibriTTS differs in its transcripts: a file ID.normalized.txt for each ID.wav (Zen et al. 2019,
arXiv:1904.02882); ID.original.txt, its text before numbers and abbreviations were spelt out, isn't read.

A subset is any folder below which such files lie, so that the limited sets of Libri-light (``1h/0``, ``9h``) are
subsets too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Listing, rows_of
from sft_speech.corpora.splits import unknown

TRANSCRIPTS, TRANSCRIPT = ".trans.txt", ".normalized.txt"  # of a chapter, of an utterance
ARCHIVES = ("LibriSpeech", "LibriTTS", "LibriTTS_R")  # the folders that they unpack into


def is_transcripts(name: str) -> bool:
    return name.endswith((TRANSCRIPTS, TRANSCRIPT)) and not name.startswith(".")


def first_transcripts(folder: Path) -> Path | None:
    """The first file of transcripts in or below a folder."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(filter(is_transcripts, files)):
            return Path(parent, name)
    return None


class LibriSpeech:
    """Rows of a LibriSpeech or LibriTTS folder, of the folder that their archives unpack into, or of one subset."""

    def __init__(self, folder: Path) -> None:
        self.folder = next((folder / name for name in ARCHIVES if (folder / name).is_dir()), folder)

    def splits(self) -> list[str]:
        """The folders above the speakers'; none where ``folder`` is a subset itself."""
        first = first_transcripts(self.folder)
        if first is None or len(first.relative_to(self.folder).parts) <= 3:  # SPEAKER/CHAPTER/file
            return []
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        return [path.name for path in folders if first_transcripts(path) is not None]

    def listing(self, split: str | None) -> Listing:
        """In the order of the folders' and the utterances' names.

        Raises:
            UserError: no such subset.
        """
        folder = self.folder.absolute() / (split or "")  # a speaker's folder is above the files, wherever one stands
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
            for name in sorted(filter(is_transcripts, files)):
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
    """Id and transcript of every line ``ID WORDS OF THE TRANSCRIPT``; of LibriTTS's files, the one in it."""
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        if path.endswith(TRANSCRIPT):
            yield os.path.basename(path).removesuffix(TRANSCRIPT), " ".join(lines.read().split())
            return
        for line in lines:
            id, *text = line.strip().split(maxsplit=1) or [""]
            if id:
                yield id, "".join(text)
