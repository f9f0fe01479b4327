"""A transcript per recording: a.wav and a.txt, a.lab or a.normalized.txt, side by side or in parallel folders.

TIMIT's .TXT begins with the first and the last sample, which are left out.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.corpora.columns import Columns, labelled
from sft_speech.corpora.headers import in_threads
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, rows_of
from sft_speech.corpora.splits import SPLITS, unknown
from sft_speech.corpora.texts import decoded
from sft_speech.errors import UserError
from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)

AUDIO = "audio"
KINDS = ("normalized.txt", "original.txt", "txt", "lab")  # the first that ends a file's name is its kind
# Parallel folders are named by what is in them: wav48/p225/a.wav, txt/p225/a.txt.
_ROLE = re.compile(
    r"(wavs?|flacs?|mp3s?|opus|audios?|clips|recordings?|speech|txts?|texts?|labs?|labels?|transcripts?|transcriptions?)"
    r"([_.-]?\d+(k|khz)?)?",
    re.IGNORECASE,
)
_NOTES = re.compile(r"(readme|licen[sc]e|copying|speakers?|changes|notes)\b", re.IGNORECASE)
_TIMED = re.compile(r"(\d+(\.\d+)?\s+){2}\S")
_TIMIT = re.compile(r"\d+ \d{3,} (?=\D)")


@dataclass
class Files:
    """The recordings and transcripts in a folder, by their places: paths in the folder without the suffix.

    Args:
        audio: paths of recordings.
        texts: paths of transcripts, by kind.
        folders: for each folder that holds one, the names on the way to it that are not of :data:`_ROLE`.
        twice: pairs of recordings with the same place.
    """

    audio: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    twice: list[tuple[str, str]] = field(default_factory=list)

    def pairs(self, kind: str) -> int:
        """Return how many recordings have a transcript of a kind."""
        return len(self.audio.keys() & self.texts[kind].keys())

    def folders_of(self, place: str) -> tuple[str, ...]:
        """Return the names of the folders of a place."""
        return self.folders[place.rpartition("/")[0]]

    def parallel(self) -> Files:
        """Return the same files, by places without the folders that are named by what is in them."""

        def moved(place: str) -> str:
            return "/".join((*self.folders_of(place), place.rpartition("/")[2]))

        found = Files(folders={"/".join(names): names for names in self.folders.values()})
        for place, path in self.audio.items():
            if (first := found.audio.setdefault(moved(place), path)) != path:
                found.twice.append((first, path))
        for kind, texts in self.texts.items():
            for place, path in texts.items():
                found.texts[kind].setdefault(moved(place), path)
        return found


def kind_of(name: str) -> str | None:
    """Return whether a file is a recording (:data:`AUDIO`) or what kind of transcript, None for another file."""
    suffix = name[name.rfind(".") :].lower()
    if name.startswith(".") or (suffix not in AUDIO_SUFFIXES and suffix not in (".txt", ".lab")):
        return None
    return AUDIO if suffix in AUDIO_SUFFIXES else next(kind for kind in KINDS if name.lower().endswith(f".{kind}"))


def files_below(folder: str, first: bool = False) -> Files:
    """Return the recordings and transcripts in and below a folder, in the order of their names.

    Args:
        first: stop after the first folder that has both for an utterance.
    """
    found = Files()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        parts = () if parent == folder else tuple(os.path.relpath(parent, folder).split(os.sep))
        found.folders["/".join(parts)] = tuple(part for part in parts if not _ROLE.fullmatch(part))
        prefix = "".join(f"{part}/" for part in parts)
        recordings, transcripts = set(), set()
        for name in sorted(names):
            kind = kind_of(name)
            if kind is None:
                continue
            path = f"{parent}/{name}"
            if kind == AUDIO:
                place = prefix + name[: name.rfind(".")]
                recordings.add(place)
                if (before := found.audio.setdefault(place, path)) != path:
                    found.twice.append((before, path))
            else:
                place = prefix + name[: -len(kind) - 1]
                transcripts.add(place)
                found.texts[kind].setdefault(place, path)
        if first and not recordings.isdisjoint(transcripts):
            break
    return found


class Sidecars:
    """The rows of a folder of recordings with a transcript each; a row's id is its place.

    Folders named like splits are its subsets. The folders below are its speakers, if there are several. Where there
    are two levels of folders, the one whose names begin the names of the files is taken, or ``columns`` says which
    ("1" is the upper one). ``columns`` may also say which kind of transcript is read.
    """

    whole = False

    def __init__(self, folder: Path, columns: Columns | None = None) -> None:
        self.folder, self.columns = str(folder.absolute()), columns or {}

    @cached_property
    def _files(self) -> Files:
        files = files_below(self.folder)
        if not any(map(files.pairs, KINDS)):
            files = files.parallel()
        if files.twice:
            first, second = (os.path.relpath(path, self.folder) for path in files.twice[0])
            why = (
                f"{counted(len(files.twice), 'recording is', 'recordings are')} there twice, e.g. {first} and {second}"
            )
            raise UserError(self.folder, why, "move one of the two out of the folder")
        above = _common([files.folders_of(place) for place in files.audio])
        files.folders = {folder: names[above:] for folder, names in files.folders.items()}
        return files

    def splits(self) -> list[str]:
        """Return the names of the topmost folders, if all of them are names of splits."""
        names = {"".join(self._files.folders_of(place)[:1]) for place in self._files.audio}
        return sorted(names) if SPLITS.issuperset(map(str.lower, names)) else []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the recordings' paths.

        Raises:
            UserError: no such split, or recordings with several transcripts.
        """
        splits = self.splits()
        if split is not None and split not in splits:
            raise unknown("split", split, splits, given=self.folder)
        files, texts, speakers = self._files, self._texts(), self._speakers

        def wanted(place: str) -> bool:
            return split is None or files.folders_of(place)[:1] == (split,)

        places = list(filter(wanted, files.audio))
        paired = [place for place in places if place in texts]
        paths, sidecars, names = ([one[place] for place in paired] for one in (files.audio, texts, speakers))
        flat = any(os.path.dirname(path) == self.folder for path in sidecars)
        dropped = [
            Dropped(place, "missing file", f"no recording for {os.path.relpath(path, self.folder)}")
            for place, path in texts.items()
            if place not in files.audio and wanted(place) and (flat or os.path.dirname(path) != self.folder)
            if not _NOTES.match(os.path.basename(path))
        ]
        unlisted = [Dropped(place, "no transcript", files.audio[place]) for place in places if place not in texts]
        return listing_of(paired, paths, sidecars, names, dropped, unlisted)

    def _texts(self) -> dict[str, str]:
        """Return the transcripts of the kind to read.

        Raises:
            UserError: there are several kinds, or not the one asked for.
        """
        files, chosen = self._files, self.columns.get("text")
        kinds = [kind for kind in KINDS if files.pairs(kind)]
        if chosen is not None:
            if chosen.removeprefix(".") not in kinds:
                raise unknown("column", chosen, kinds, given=self.folder)
            return files.texts[chosen.removeprefix(".")]
        if len(kinds) > 1 and "lab" in kinds and _timed(files):
            kinds.remove("lab")
        if kinds[:2] == ["normalized.txt", "original.txt"]:  # as in LibriTTS
            kinds.remove("original.txt")
        if len(kinds) > 1:
            place = next(one for one in files.texts[kinds[0]] if one in files.audio)
            seen = ", ".join(f"{files.pairs(kind):,} *.{kind}" for kind in kinds)
            why = f"its recordings have transcripts of several kinds: {seen} (e.g. {place})"
            raise UserError(self.folder, why, f"say which: text_column: {kinds[0]}")
        return files.texts[kinds[0]] if kinds else {}

    @cached_property
    def _speakers(self) -> dict[str, str]:
        """The speaker of each recording, "" if the folders don't tell.

        Raises:
            UserError: there is no such level of folders as is asked for.
        """
        skip, asked = bool(self.splits()), self.columns.get("speaker")
        folders = {place: self._files.folders_of(place)[skip:] for place in self._files.audio}
        levels = range(min(map(len, folders.values()), default=0))
        if asked is not None and asked not in [str(level + 1) for level in levels]:
            raise unknown("column", asked, [str(level + 1) for level in levels], given=self.folder)
        unknown_speakers = dict.fromkeys(folders, "")
        if not levels or ("speaker" in self.columns and asked is None):
            return unknown_speakers
        named = [level for level in levels if all(_stem(place).startswith(folders[place][level]) for place in folders)]
        if asked is None and not named and len(levels) > 1:
            example = "/".join(next(iter(folders.values()))[: len(levels)])
            what = f"which of the folders {example} are its speakers can't be seen; speaker_column: 1 takes the first"
            logger.warning("%s: %s", self.folder, what)
            return unknown_speakers
        level = int(asked) - 1 if asked else (named or levels)[0]
        speakers = {place: names[level] for place, names in folders.items()}
        distinct = sorted(set(speakers.values()))
        if asked is None and not 1 < len(distinct) < len(speakers):
            return unknown_speakers
        logger.info("%s: its %d folders (%s, ...) are its speakers", self.folder, len(distinct), distinct[0])
        return speakers


def _stem(place: str) -> str:
    return place.rpartition("/")[2]


def _common(folders: list[tuple[str, ...]]) -> int:
    """Return how many names at the start of all paths are the same."""
    first, last = min(folders, default=()), max(folders, default=())
    return next((at for at, names in enumerate(zip(first, last, strict=False)) if len(set(names)) > 1), len(first))


def listing_of(
    ids: list[str],
    paths: list[str],
    sidecars: list[str],
    speakers: list[str],
    dropped: list[Dropped],
    unlisted: list[Dropped],
) -> Listing:
    """Return rows with their transcripts, read from a file each; those that cannot be read are dropped."""
    texts = [text for block in in_threads(_read, sidecars, "Reading transcripts") for text in block]
    for id, text in zip(ids, texts, strict=True):
        if isinstance(text, Dropped):
            dropped.append(text._replace(id=id))
    rows = [row for row in zip(ids, paths, texts, speakers, strict=True) if not isinstance(row[2], Dropped)]
    kept = [str(row[2]) for row in rows]
    if kept and all(map(_TIMIT.match, kept)):
        kept = [_TIMIT.sub("", text, count=1) for text in kept]
    ids, paths, speakers = ([str(row[column]) for row in rows] for column in (0, 1, 3))
    return Listing(rows_of(ids, paths, kept, speakers, dropped), dropped, unlisted)


def _read(paths: Iterable[str]) -> list[str | Dropped]:
    """Return the transcript in each file, on one line, or why there is none."""
    found: list[str | Dropped] = []
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                text = decoded(file.read())
        except UnicodeDecodeError:
            found.append(Dropped(path, "unreadable transcript", f"{path} is not UTF-8 text: convert it"))
        except OSError as error:
            found.append(Dropped(path, "unreadable transcript", f"{path}: {error.strerror}"))
        else:
            timed = Dropped(path, "unreadable transcript", f"{path} holds times and labels")
            found.append(timed if _is_timed(text) else " ".join(text.split()))
    return found


def _is_timed(text: str) -> bool:
    """Return whether a file holds labels with times, as of HTK, festival and Audacity, and no transcript."""
    body = f"\n{text}".rpartition("\n#\n")[2].lstrip()  # festival's has a header
    if not body[:1].isdigit():
        return False
    lines = list(filter(None, map(str.strip, body.split("\n"))))
    return all(map(_TIMED.match, lines)) and (len(lines) > 1 or "." in lines[0].split()[0])


def _timed(files: Files) -> bool:
    """Return whether the first label files have times."""
    paths = [path for place, path in files.texts["lab"].items() if place in files.audio][:3]
    return all(isinstance(one, Dropped) for one in _read(paths))


def find(folder: Path, columns: Columns) -> Path | None:
    """Return a transcript that has a recording, unless labels are asked for, which transcripts don't have."""
    if not folder.is_dir() or (labelled(columns) and columns["label"] in (None, "label")):
        return None
    files = files_below(str(folder), first=True)
    if not any(map(files.pairs, KINDS)):
        files = files.parallel()
    pairs = (path for texts in files.texts.values() for place, path in texts.items() if place in files.audio)
    return next(map(Path, pairs), None)


LAYOUT = Layout("recordings with a transcript each (a.wav and a.txt or a.lab)", find, Sidecars, 2)
