"""Recordings whose utterances, with their times, are in annotation files beside them or elsewhere in the folder.

A format is a reader that yields the segments of one file; :class:`Annotated` finds the files and their recordings. An
annotation file belongs to the recording of the same stem that is nearest in the tree of folders, so that ``a.TextGrid``
may be beside ``a.wav`` or in a folder of its own, as ``stm/`` and ``sph/`` are in TED-LIUM.
"""

from __future__ import annotations

import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from sft_speech.audio.codecs import AUDIO_SUFFIXES, VIDEO_SUFFIXES, is_audio
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import CHANNEL, SCHEMA, Layout, Listing, is_text, unnameable
from sft_speech.corpora.splits import SPLITS, unknown
from sft_speech.corpora.texts import decoded
from sft_speech.errors import UserError
from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)


class Segment(NamedTuple):
    """An utterance.

    Args:
        start, end: in seconds within the recording.
        recording: names of the recording without suffix, of which the first that exists is taken; none: the name of
            the annotation file.
        channel: as the file names it; "" if it names none.
        tier: the tier that was chosen because only that one has text.
    """

    text: str
    start: float
    end: float
    speaker: str = ""
    recording: tuple[str, ...] = ()
    channel: str = ""
    tier: str = ""


class Unreadable(Exception):
    """An annotation file that is dropped; the message says why."""


# The segments of a file and what it holds that is none, whose ids are places in the file ("line 3").
Reader = Callable[[str, Columns], Iterable[Segment | Dropped]]


class Annotated:
    """The rows of a folder's annotation files, or of one such file.

    Its subsets are the folders or files (``train/``, ``test.stm``), if all of them have names of splits.

    Args:
        shared: whether a file may have segments of several recordings, and a recording several files.
    """

    whole = False

    def __init__(
        self, path: Path, suffixes: tuple[str, ...], read: Reader, columns: Columns, shared: bool = False
    ) -> None:
        self.path, self.suffixes, self.read, self.columns = path.absolute(), suffixes, read, columns
        self.shared = shared
        self.folder = self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _files(self) -> list[str]:
        """The annotation files, relative to the folder."""
        if self.path != self.folder:
            return [self.path.name]
        return [os.path.relpath(path, self.folder) for path in files_below(self.folder) if self._is_annotation(path)]

    def _is_annotation(self, path: str) -> bool:
        return path.lower().endswith(self.suffixes)

    def splits(self) -> list[str]:
        """Return the names of the subsets."""
        if self.path != self.folder:
            return []
        return split_names(map(split_of, self._files))

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the files' names and of the segments in them.

        Raises:
            UserError: no such split, two files annotate one recording, or a reader must ask which part to take.
        """
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.path))
        recordings = Recordings(self.folder)
        rows = _Rows(self.folder)
        annotated: dict[str, str] = {}
        for name in self._files:
            if split is not None and split_of(name) != split:
                continue
            path, found = os.path.join(self.folder, name), recordings.of(name, stem_of(name))
            try:
                items = list(self.read(path, self.columns))
            except (Unreadable, OSError) as error:
                rows.dropped.append(Dropped(name, "unreadable", getattr(error, "strerror", None) or str(error)))
                items = []
                found = recordings.of(name, stem_of(name), stem_of(stem_of(name)))  # also that of a.en.srt
                rows.recordings.update([found] if isinstance(found, str) else [])  # it is dropped once
            for item in items:
                if isinstance(item, Dropped):
                    rows.dropped.append(item._replace(id=f"{name} {item.id}".rstrip()))
                    continue
                recording = recordings.of(name, *item.recording) if item.recording else found
                if isinstance(recording, str) and annotated.setdefault(recording, name) != name and not self.shared:
                    why = f"both {annotated[recording]} and {name} annotate {os.path.basename(recording)}"
                    raise UserError(str(self.folder), why, "keep one of them")
                rows.add(item, recording, name)
        rows.warn(self.path)
        listing = Listing(rows.table(), rows.dropped)
        within = self.folder / (split or "")
        if self.path == self.folder and within.is_dir():
            known = rows.recordings | annotated.keys()
            listing.unlisted = [
                Dropped(os.path.relpath(path, self.folder), "no transcript", path)
                for path in recordings.below(within)
                if path not in known
            ]
        return listing


class _Rows:
    """The rows of segments, and those dropped so far."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{str(folder).rstrip('/')}/"
        self.dropped: list[Dropped] = []
        self.recordings: set[str] = set()
        self._rows: list[tuple[str, str, str, str, float, float, str]] = []
        self._ids: dict[str, set[tuple[str, str, str]]] = {}
        self._channels: dict[str, set[str]] = {}
        self._tiers: Counter[str] = Counter()

    def add(self, segment: Segment, recording: str | Dropped, file: str) -> None:
        """Add a segment, or drop it if it has no recording.

        Its id is ``a.wav#1.500-2.250``. Another segment of the same times, of another speaker, has ``-2`` behind it.
        """
        span = f"#{segment.start:.3f}-{segment.end:.3f}"
        if isinstance(recording, Dropped):
            self.dropped.append(recording._replace(id=f"{file}{span}"))
            return
        id = recording.removeprefix(self._prefix) + span
        if not is_text(recording):
            self.dropped.append(unnameable(id, recording))
            return
        same, own = self._ids.setdefault(id, set()), (segment.text, segment.speaker, segment.channel)
        if same and own not in same:
            id = f"{id}-{len(same) + 1}"
        same.add(own)
        self.recordings.add(recording)
        self._rows.append((id, recording, segment.text, segment.speaker, segment.start, segment.end, segment.channel))
        self._channels.setdefault(recording, set()).add(segment.channel)
        self._tiers[segment.tier] += 1

    def warn(self, source: Path) -> None:
        """Log what cannot be known of these rows."""
        tiers = Counter({tier: rows for tier, rows in self._tiers.items() if tier})
        if len(tiers) > 1:
            names = ", ".join(f"{tier} ({counted(rows, 'row')})" for tier, rows in tiers.most_common(5))
            line = "%s: the text is in tiers of different names: %s; --text_column NAME takes one of them"
            logger.warning(line, source, names)

    def table(self) -> pa.Table:
        """Return the rows as a table of `SCHEMA`, with their channels if a recording has segments of several."""
        *columns, channels = list(zip(*self._rows, strict=True)) or [()] * (len(SCHEMA) + 1)
        table = pa.table([pa.array(*one) for one in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
        several = any(len(own) > 1 for own in self._channels.values())
        return table.append_column(CHANNEL, pa.array(channels, pa.string())) if several else table


# ---- files ----


class Recordings:
    """The audio and video files in and below a folder, by their stems."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stem: dict[str, list[str]] = {}
        self._found: dict[tuple[str, tuple[str, ...]], str | Dropped] = {}  # the last one looked for
        for path in files_below(folder):
            if is_audio(os.path.basename(path), AUDIO_SUFFIXES | VIDEO_SUFFIXES):
                self._by_stem.setdefault(stem_of(path), []).append(path)

    def below(self, folder: Path) -> list[str]:
        """Return the recordings in and below a folder, sorted."""
        return sorted(
            path for paths in self._by_stem.values() for path in paths if path.startswith(f"{str(folder).rstrip('/')}/")
        )

    def of(self, file: str, *stems: str) -> str | Dropped:
        """Return the recording with one of the stems that is nearest to a file, or the reason why there is none.

        Args:
            file: relative to the folder.
        """
        if (file, stems) not in self._found:  # the same for all segments of a file
            self._found = {(file, stems): self._of(file, stems)}
        return self._found[file, stems]

    def _of(self, file: str, stems: tuple[str, ...]) -> str | Dropped:
        paths = next((paths for stem in stems if (paths := self._by_stem.get(normal(stem), []))), [])
        if len(paths) > 1:
            own = os.path.dirname(os.path.join(self.folder, file)).split(os.sep)
            shared = [_common(own, os.path.dirname(path).split(os.sep)) for path in paths]
            paths = [path for path, depth in zip(paths, shared, strict=True) if depth == max(shared)]
            paths = [path for path in paths if is_audio(os.path.basename(path))] or paths  # rather than video
        if not paths:
            return Dropped(file, "missing file", f"no recording called {' or '.join(stems)}")
        if len(paths) > 1:
            return Dropped(file, "several recordings", " and ".join(map(os.path.basename, paths)))
        return paths[0]


def _common(first: list[str], second: list[str]) -> int:
    """Return how many folders at the start of two paths are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the paths of the files in and below a folder that aren't hidden, sorted within each folder."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))


@lru_cache(1)
def first_files(folder: Path) -> dict[str, Path]:
    """Return the first file of each suffix (``.csv``, also ``.segments.csv``), in lower case, in and below a folder.

    One walk serves all layouts: the caller who looks for a layout calls ``first_files.cache_clear()`` before.
    """
    found: dict[str, str] = {}
    for path in files_below(folder) if folder.is_dir() else ():
        rest, suffix = os.path.splitext(os.path.basename(path).lower())
        found.setdefault(suffix, path)
        found.setdefault(os.path.splitext(rest)[1] + suffix, path)
    return {suffix: Path(path) for suffix, path in found.items()}


def annotated_layout(expected: str, suffixes: tuple[str, ...], read: Reader, shared: bool = False) -> Layout:
    """Return the layout of recordings with annotation files, which are known by their suffixes (in lower case)."""

    def find(path: Path, columns: Columns) -> Path | None:
        if columns.get("label", "speaker") not in ("speaker", "text"):  # annotations have no labels
            return None
        if path.is_file():
            return path if path.name.lower().endswith(suffixes) else None
        return next((first_files(path)[suffix] for suffix in suffixes if suffix in first_files(path)), None)

    return Layout(expected, find, lambda path, columns: Annotated(path, suffixes, read, columns, shared), 1)


def normal(name: str) -> str:
    """Return a name in the form NFC: macOS decomposes accented letters."""
    return unicodedata.normalize("NFC", name)


def stem_of(path: str) -> str:
    """Return a file's name without its folder and suffix, in the form NFC."""
    return normal(os.path.splitext(os.path.basename(path))[0])


def split_of(name: str) -> str:
    """Return the topmost folder of a relative path, or the stem of a file in no folder."""
    folder, _, rest = name.partition(os.sep)
    return folder if rest else os.path.splitext(name)[0]


def split_names(names: Iterable[str]) -> list[str]:
    """Return the distinct names, sorted, if all of them are names of splits, else none."""
    distinct = set(names)
    return sorted(distinct) if SPLITS.issuperset(map(str.lower, distinct)) else []


# ---- content ----


def text_of(path: str) -> str:
    """Return the content of a file in UTF-8, or in UTF-16 with a byte order mark; all line ends are ``\\n``.

    Raises:
        Unreadable: another encoding.
    """
    try:
        return decoded(Path(path).read_bytes())
    except UnicodeDecodeError as error:
        raise Unreadable(f"neither UTF-8 nor UTF-16 (byte {error.start}); convert it to UTF-8") from error


def to_seconds(text: str) -> float:
    """Return a time.

    Raises:
        ValueError: it isn't a finite number, or is negative.
    """
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(text)
    return seconds


def one_line(text: str) -> str:
    """Return a text with each run of spaces and line breaks as one space."""
    return " ".join(text.split())
