"""The layout of LJSpeech: metadata.csv with lines ``ID|text|normalized text`` beside wavs/ID.wav.

Also its variants: ``ID|speaker|text`` of Piper, ``FILE|text|speaker`` of XTTS, with more columns, or a header.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import compress, pairwise
from pathlib import Path

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.columns import Columns, named_roles
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of
from sft_speech.corpora.splits import unknown
from sft_speech.corpora.tables import is_barred
from sft_speech.corpora.texts import read_lines
from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

_SAMPLE = 2000  # lines by which the columns are told apart
_COMPARED = 100  # of them, pairs of texts that are compared
_SIMILAR = 0.5  # of the words or letters of two forms of one text; unrelated sentences have about 0.3


class LJSpeech:
    """The rows of an LJSpeech folder or of a table like its own: no subsets, the normalized text if a line has one."""

    whole = False

    def __init__(self, path: Path, columns: Columns | None = None) -> None:
        self.table = path / "metadata.csv" if path.is_dir() else path
        self.columns = columns or {}

    def splits(self) -> list[str]:
        """Return no names: there are no subsets."""
        return []

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the table.

        Raises:
            UserError: it isn't clear which column is the text or the speaker.
        """
        ids: list[str] = []
        rests: list[str] = []  # of the lines, as strings: lists of cells would take several times the memory
        bare: list[tuple[int, str]] = []
        for number, line in enumerate(read_lines(self.table), 1):
            id, bar, rest = line.rstrip("\n").partition("|")
            if bar:
                ids.append(id)
                rests.append(rest)
            elif id.strip():
                bare.append((number, id))
        audio = _Audio(self.table.absolute().parent, [*ids, *(id for _, id in bare)])
        header: list[str] = []
        if ids and not audio.find(ids[0]) and {"text", "speaker"} & set(named_roles(rests[0].split("|"))):
            header = [ids.pop(0), *rests.pop(0).split("|")]
        dropped: list[Dropped] = []
        listed: set[str] = set()
        for number, id in bare:
            dropped.append(Dropped(id, "unreadable row", f"line {number} is not ID|text|normalized text"))
            listed.update(audio.find(id))
        paths: list[str] = []
        clear: list[bool] = []  # whether an id can only be one file; a missing one may be found later
        for id in ids:
            found = audio.find(id)
            clear.append(len(found) < 2)
            paths.append(found[0] if found else audio.expected(id))
            listed.update(found)
            if not clear[-1]:
                dropped.append(Dropped(id, "several files", f"it may be {' or '.join(found[:3])}"))
        if not all(clear):
            ids, paths, rests = ([*compress(column, clear)] for column in (ids, paths, rests))
        spoken, speakers = _spoken(rests, *_roles(rests, header, self.columns, self.table))
        unlisted = [Dropped(_stem(path), "no transcript", path) for path in audio.paths if path not in listed]
        return Listing(rows_of(ids, paths, spoken, speakers, dropped), dropped, unlisted)


class _Audio:
    """The audio files that a table's ids may name: in wavs, or in and below the table's folder if they aren't there."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        for root in (folder / "wavs", folder):
            self.root, self.paths = root, list(audio_files(root))
            self._by_stem: dict[str, tuple[str, ...]] = {}
            for path in self.paths:
                stem = _stem(path)
                self._by_stem[stem] = (*self._by_stem.get(stem, ()), path)
            if any(self.find(id) for id in ids):
                break

    def find(self, id: str) -> Sequence[str]:
        """Return the files that an id names, which may have a folder, an ending, or another ending than the file."""
        known = self._by_stem.get(id, ())
        if len(known) == 1:  # nearly always
            return known
        id = id.strip()
        if id.startswith("/"):
            return [id]
        whole = os.path.splitext(id)[0] if is_audio(os.path.basename(id)) else id
        found = [path for path in self._by_stem.get(os.path.basename(whole), ()) if _within(path, whole)]
        exact = [path for path in found if path.endswith(f"/{id}")]
        return exact if len(exact) == 1 else found

    def expected(self, id: str) -> str:
        """Return the file that an id would name."""
        return str(self.root / (id if is_audio(os.path.basename(id)) else f"{id}.wav"))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _within(path: str, whole: str) -> bool:
    """Return whether a path without its ending ends with an id's folders and name."""
    return "/" not in whole or os.path.splitext(path)[0].endswith(f"/{whole.removeprefix('./')}")


def _spoken(rests: list[str], texts: list[int], speaker: int | None) -> tuple[list[str], list[str]]:
    """Return the texts and the speakers of lines, given as what follows their ids; see :func:`_roles`. The texts
    replace ``rests``, so that both are not held at once.
    """
    speakers: list[str] = []
    for row, rest in enumerate(rests):
        cells = rest.split("|")
        speakers.append("" if speaker is None or speaker >= len(cells) else cells[speaker].strip())
        rests[row] = next((cells[n] for n in texts if n < len(cells) and cells[n].strip()), "")
    return rests, speakers


# ---- which column is which ----


def _roles(rests: list[str], header: list[str], columns: Columns, table: Path) -> tuple[list[int], int | None]:
    """Return the columns of the text, the preferred one first, and of the speaker, if any; counted from 0 after the id.

    Args:
        rests: of the lines, after the id.
        header: all names, or none.
        columns: may name the columns, or number them from 1, which is the id.

    Raises:
        UserError: it isn't clear; or no such column.
    """
    width = 1 + max((rest.count("|") for rest in rests), default=0)
    sample = [rest.split("|") for rest in rests[:: max(1, len(rests) // _SAMPLE)]]
    cells = [[row[n].strip() if n < len(row) else "" for row in sample] for n in range(width)]
    chosen = {role: _place(columns[role], header, width, table) for role in ("text", "speaker") if columns.get(role)}
    named = {role: places[-1] for role, places in named_roles(header[1:]).items()} | chosen
    names, forms = _kinds(cells)
    if "text" in named:  # of the columns that a header names as text, the last: the normalized one
        only = names[0] if len(names) == 1 and not header and names[0] != named["text"] else None
        return [named["text"]], named.get("speaker", only)
    if len(forms) != 1:
        shown = " | ".join(f"{n + 2}: {values[0][:25]}" for n, values in enumerate(cells) if any(values))
        do = "say which is the text, and the speaker if there is one: --text_column 3 --speaker_column 2, for example"
        raise UserError(str(table), f"it isn't clear which of its columns is the text ({shown})", do)
    if "speaker" in named:
        return forms[0], named["speaker"]
    if len(names) > 1:
        shown = " | ".join(f"{n + 2}: {cells[n][0][:25]}" for n in names)
        do = f"say which is: --text_column {forms[0][0] + 2} --speaker_column {names[0] + 2}, for example"
        raise UserError(str(table), f"it isn't clear which of its columns is the speaker ({shown})", do)
    if names:
        logger.warning(
            "%s: its columns are read as id, text (column %d) and speaker (%d)", table, forms[0][0] + 2, names[0] + 2
        )
    return forms[0], names[0] if names else None


def _place(column: str | None, header: list[str], width: int, table: Path) -> int:
    """Return the place of a column that is named, or numbered from 1."""
    known = [*(header or map(str, range(1, width + 2)))]
    if column in known[1:]:
        return known.index(str(column)) - 1
    raise unknown("column", str(column), known[1:], given=str(table))


def _kinds(cells: list[list[str]]) -> tuple[list[int], list[list[int]]]:
    """Return the columns that can only be names, as of speakers; and those that may be the text, each with its forms.

    Names are short and repeated, fractions are durations, whole numbers no text if there is another, and a column that
    resembles the one before it is another form of the same text, as the normalized one.

    Args:
        cells: the values of each column.
    """
    filled = [n for n, values in enumerate(cells) if any(values) and not _numeric(values, fractions=True)]
    for one, other in pairwise(filled):
        if _similar(cells[one], cells[other]):
            names = [n for n in filled if n not in (one, other) and _repeated(cells[n])]
            return _varied(names, cells), [[other, one]]
    if len(filled) < 2:
        return [], [[n] for n in filled] or [[0]]
    words = [n for n in filled if not _numeric(cells[n])]
    texts = words if len(words) == 1 else [n for n in words or filled if not _repeated(cells[n])]
    return _varied([n for n in filled if n not in texts and _repeated(cells[n])], cells), [[n] for n in texts]


def _varied(names: list[int], cells: list[list[str]]) -> list[int]:
    """Return the columns of names, without those of a single name if there are others."""
    return names if len(names) < 2 else [n for n in names if len(set(cells[n])) > 1]


def _numeric(values: list[str], fractions: bool = False) -> bool:
    """Return whether all values are numbers; ``fractions``: and not all of them whole."""
    try:
        numbers = [float(value) for value in values if value]
    except ValueError:
        return False
    return not fractions or not all(map(float.is_integer, numbers))


def _repeated(values: list[str]) -> bool:
    words = sum(len(value.split()) for value in values) / len(values)
    return len(set(values)) <= len(values) / 2 and words < 3 and max(map(len, values)) <= 40


def _similar(one: list[str], other: list[str]) -> bool:
    pairs = [(a.casefold()[:300], b.casefold()[:300]) for a, b in zip(one, other, strict=True) if a and b]
    pairs = pairs[:: max(1, len(pairs) // _COMPARED)]
    shares = []
    for a, b in pairs:
        words = sorted((set(a.split()), set(b.split())), key=len)
        letters = SequenceMatcher(None, a, b, autojunk=False).ratio()
        shares.append(max(letters, len(words[0] & words[1]) / max(1, len(words[0]))))
    return bool(shares) and sum(shares) / len(shares) >= _SIMILAR


def is_ljspeech(folder: Path, columns: Columns) -> bool:
    """Return whether metadata.csv has this form."""
    return (folder / "metadata.csv").is_file() and is_barred(folder / "metadata.csv", columns)


def find(path: Path, columns: Columns) -> Path | None:
    """Return metadata.csv, if it has this form; or the path itself, if it is such a table.

    Raises:
        UserError: it has, but there is no audio.
    """
    if path.is_file():
        return path if is_barred(path, columns) else None
    if not is_ljspeech(path, columns):
        return None
    if not (path / "wavs").is_dir() and next(iter(audio_files(path)), None) is None:
        seen = "its metadata.csv has LJSpeech's form, but there is no folder wavs, nor audio elsewhere in it"
        raise UserError(str(path), seen, "put the audio into wavs/, or name the columns in the first line")
    return path / "metadata.csv"


LAYOUT = Layout("an LJSpeech folder (metadata.csv of ID|text|text beside wavs/)", find, LJSpeech)
