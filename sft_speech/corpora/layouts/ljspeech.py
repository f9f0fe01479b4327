"""The layout of LJSpeech: metadata.csv with lines ``ID|text|normalized text`` beside wavs/ID.wav.

Also its variants: ``ID|speaker|text`` of Piper, ``FILE|text|speaker`` of XTTS, with more columns, or a header.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.columns import Columns, named_roles
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, audio_files, rows_of
from sft_speech.corpora.splits import unknown
from sft_speech.corpora.tables import is_barred, read_text
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
        text = io.StringIO(read_text(self.table), newline=None)
        lines = [(number, line.rstrip("\n").split("|")) for number, line in enumerate(text, 1) if line.strip()]
        audio = _Audio(self.table.absolute().parent, [cells[0] for _, cells in lines])
        header: list[str] = []
        if lines and not audio.find(lines[0][1][0]) and {"text", "speaker"} & set(named_roles(lines[0][1][1:])):
            header = lines.pop(0)[1]
        dropped: list[Dropped] = []
        rows: list[tuple[str, str, list[str]]] = []
        listed: set[str] = set()
        for number, (id, *cells) in lines:
            if not cells:
                why = f"line {number} is not ID|text|normalized text"
                dropped.append(Dropped(id or f"line {number}", "unreadable row", why))
                listed.update(audio.find(id))
                continue
            found = audio.find(id)
            if len(found) > 1:
                dropped.append(Dropped(id, "several files", f"it may be {' or '.join(found[:3])}"))
            else:
                rows.append((id, found[0] if found else audio.expected(id), cells))  # a missing one may be found later
            listed.update(found)
        texts, speaker = _roles([cells for _, _, cells in rows], header, self.columns, self.table)
        ids, paths = [id for id, _, _ in rows], [path for _, path, _ in rows]
        spoken = [next((cells[n] for n in texts if n < len(cells) and cells[n].strip()), "") for _, _, cells in rows]
        speakers = ["" if speaker is None or speaker >= len(cells) else cells[speaker].strip() for _, _, cells in rows]
        unlisted = [Dropped(_stem(path), "no transcript", path) for path in audio.paths if path not in listed]
        return Listing(rows_of(ids, paths, spoken, speakers, dropped), dropped, unlisted)


class _Audio:
    """The audio files that a table's ids may name: in wavs, or in and below the table's folder if they aren't there."""

    def __init__(self, folder: Path, ids: list[str]) -> None:
        for root in (folder / "wavs", folder):
            self.root, self.paths = root, list(audio_files(root))
            self._by_stem: dict[str, list[str]] = {}
            for path in self.paths:
                self._by_stem.setdefault(_stem(path), []).append(path)
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


# ---- which column is which ----


def _roles(rows: list[list[str]], header: list[str], columns: Columns, table: Path) -> tuple[list[int], int | None]:
    """Return the columns of the text, the preferred one first, and of the speaker, if any; counted from 0 after the id.

    Args:
        rows: cells after the id.
        header: all names, or none.
        columns: may name the columns, or number them from 1, which is the id.

    Raises:
        UserError: it isn't clear; or no such column.
    """
    width = max((len(row) for row in rows), default=1)
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
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
