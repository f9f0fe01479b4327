"""The layout of VCTK 0.92: wav48_silence_trimmed/p225/p225_001_mic1.flac and txt/p225/p225_001.txt.

https://doi.org/10.7488/ds/2645. Both microphones recorded the same utterances. VCTK 0.80 has one file of each, and is
read as any recordings with transcripts.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts.sidecars import listing_of
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, subfolders

logger = logging.getLogger(__name__)

AUDIO, TEXTS = "wav48_silence_trimmed", "txt"
_MICROPHONE = re.compile(r"_mic\d+$")


class Vctk:
    """The rows of VCTK: one recording of each utterance, by the first microphone that it has."""

    whole = False

    def __init__(self, folder: Path) -> None:
        self.folder = (_root(folder) or folder).absolute()

    def splits(self) -> list[str]:
        """Return no names: there are no subsets."""
        return []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the speakers and of their sentences."""
        audio: dict[str, str] = {}
        others = 0
        for path in audio_files(self.folder / AUDIO):  # sorted: mic1 comes first
            id = _MICROPHONE.sub("", os.path.splitext(os.path.basename(path))[0])
            others += audio.setdefault(id, path) != path
        if others:
            what = "%s: %d utterances were recorded by two microphones; the first, *_mic1, is taken"
            logger.warning(what, self.folder, others)
        texts: dict[str, str] = {}
        for parent, folders, names in os.walk(self.folder / TEXTS, followlinks=True):
            folders.sort()
            for name in sorted(names):
                if name.endswith(".txt") and not name.startswith("."):
                    texts[name.removesuffix(".txt")] = os.path.join(parent, name)
        ids = [id for id in audio if id in texts]
        speakers = [os.path.basename(os.path.dirname(audio[id])) for id in ids]
        dropped = [Dropped(id, "missing file", f"no recording in {AUDIO}") for id in texts if id not in audio]
        unlisted = [Dropped(id, "no transcript", path) for id, path in audio.items() if id not in texts]
        return listing_of(ids, [audio[id] for id in ids], [texts[id] for id in ids], speakers, dropped, unlisted)


def _root(folder: Path) -> Path | None:
    """Return the folder that has both, or else the first in it that has."""
    folders = (folder, *subfolders(folder))
    return next((path for path in folders if (path / AUDIO).is_dir() and (path / TEXTS).is_dir()), None)


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the folder of recordings."""
    root = _root(folder)
    return root and root / AUDIO


LAYOUT = Layout("a VCTK folder (wav48_silence_trimmed/ beside txt/)", find, lambda folder, columns: Vctk(folder))
