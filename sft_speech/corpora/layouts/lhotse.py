"""Manifests of lhotse: cuts, or recordings and their supervisions, as JSON lines, also gzipped.

Each supervision is a row; a cut only tells where its supervisions are. See "Representing a corpus" and "Cuts" in
lhotse's documentation. Files are called ``cuts.jsonl.gz``, with names of a corpus before and of a subset after, as in
``librispeech_cuts_dev-clean.jsonl.gz``; the subsets are splits.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from sft_speech.corpora.annotated import to_seconds
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.inside import inside
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import SCHEMA, Layout, Listing
from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

_NAME = re.compile(
    r"(?P<corpus>.+[_-])?(?P<kind>cuts|recordings|supervisions)(?P<split>[._-].+)?\.jsonl(?:\.gz)?", re.IGNORECASE
)
_SUFFIXES = (".jsonl", ".jsonl.gz")
_HARMLESS = frozenset(("Resample", "Volume"))  # transforms of a recording that move nothing in time
_Json = dict[str, Any]


class _Unsupported(Exception):
    """A cut or a recording of which no row can be made: reason and detail."""


class Lhotse:
    """The rows of the manifests in a folder, or of one file of cuts."""

    whole = False

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.folder = self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        """The file of each kind, by split."""
        if self.path != self.folder:
            return {"": {"cuts": self.path}}
        found: dict[str, dict[str, Path]] = {}
        for path in sorted(self.folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is None or not path.is_file():
                continue
            kinds = found.setdefault((name["split"] or "").lstrip("._-"), {})
            other = kinds.setdefault(name["kind"].lower(), path)
            if other != path:
                raise UserError(str(self.folder), f"both {other.name} and {path.name} are in it", "keep one of them")
        return {split: kinds for split, kinds in found.items() if "cuts" in kinds or len(kinds) == 2}

    def splits(self) -> list[str]:
        """Return the names of the subsets."""
        return [] if list(self._files) == [""] else sorted(self._files)

    def listing(self, split: str | None = None) -> Listing:
        """Return a row per supervision, in the order of the files.

        Raises:
            UserError: no such split, or a file that isn't JSON lines.
        """
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.path))
        rows = _Rows(self.folder)
        files = self._files[split or ""]
        if "cuts" in files:
            for place, cut in _objects(files["cuts"], rows.dropped):
                rows.add_cut(cut, place)
        else:
            recordings = {_key(one.get("id")): one for _, one in _objects(files["recordings"], rows.dropped)}
            for place, supervision in _objects(files["supervisions"], rows.dropped):
                recording = recordings.get(_key(supervision.get("recording_id")), {})
                rows.add(supervision, recording, 0.0, _text(supervision.get("id")) or place)
        return rows.listing()


class _Rows:
    """The rows of supervisions, and those dropped so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dropped: list[Dropped] = []
        self._rows: list[tuple[str, str, str, str, float | None, float | None]] = []
        self._languages: list[str] = []

    def add_cut(self, cut: _Json, place: str) -> None:
        """Add the supervisions of a cut."""
        id = _text(cut.get("id")) or place
        supervisions = cut.get("supervisions")
        if cut.get("type", "MonoCut") != "MonoCut":
            self.dropped.append(Dropped(id, "not supported", f"a {_text(cut['type'])[:40]}; only MonoCut is read"))
        elif not isinstance(cut.get("recording"), dict):
            self.dropped.append(Dropped(id, "not supported", "a cut without a recording: only features"))
        elif not isinstance(supervisions, list) or not supervisions:
            self.dropped.append(Dropped(id, "no transcript", "a cut without supervisions"))
        else:
            for number, supervision in enumerate(supervisions, 1):
                own = supervision if isinstance(supervision, dict) else {}
                name = _text(own.get("id")) or (id if len(supervisions) == 1 else f"{id}-{number}")
                self.add(own, cut["recording"], cut.get("start"), name)

    def add(self, supervision: _Json, recording: _Json, offset: object, id: str) -> None:
        """Add a supervision, or drop it.

        Args:
            offset: seconds within the recording at which the times of the supervision begin.
        """
        try:
            path = self._path(recording)
            start = float(str(offset)) + float(str(supervision.get("start")))
            start = to_seconds(str(0.0 if -1e-3 < start < 0 else round(start, 6)))  # sums of decimals are inexact
            end = round(start + to_seconds(str(supervision.get("duration"))), 6)
        except _Unsupported as error:
            self.dropped.append(Dropped(id, *error.args))
            return
        except ValueError:
            self.dropped.append(Dropped(id, "bad segment", "start or duration is not a number of seconds"))
            return
        whole = start == 0 and end == recording.get("duration")
        times = (None, None) if whole else (start, end)
        text, speaker = _text(supervision.get("text")), _text(supervision.get("speaker"))
        self._rows.append((id, path, text, speaker, *times))
        self._languages.append(_text(supervision.get("language")))

    def _path(self, recording: _Json) -> str:
        """Return the file of a recording: a relative path is one within the manifest's folder, else within the current
        folder, which is the one that lhotse takes.

        Raises:
            _Unsupported: there is no such file, or not just one.
        """
        sources = recording.get("sources")
        if not isinstance(sources, list) or not sources:
            raise _Unsupported("missing file", "no such recording in the manifest")
        if len(sources) > 1 or not isinstance(sources[0], dict):
            raise _Unsupported("not supported", f"a recording of {len(sources)} sources")
        kind, path = sources[0].get("type"), _text(sources[0].get("source"))
        if kind != "file":
            raise _Unsupported("not supported", f"a source of type {_text(kind)[:40]!r}; only files are read")
        transforms = recording.get("transforms") or []
        names = {_text(one.get("name") if isinstance(one, dict) else one) for one in list(transforms)}
        if names - _HARMLESS:
            raise _Unsupported("not supported", f"a recording transformed by {', '.join(sorted(names))[:80]}")
        if os.path.isabs(path):
            return path
        for root in (str(self.folder), os.getcwd()):
            file = os.path.join(root, path)
            if "\0" not in path and os.path.isfile(file):
                if not inside([file], root)[0]:
                    raise _Unsupported("outside the corpus folder", f"{path} is outside {root}; write an absolute path")
                return file
        raise _Unsupported("missing file", f"no {path[:200]} in {self.folder} or in the current folder")

    def listing(self) -> Listing:
        """Return the rows, with the languages of the supervisions."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        table = pa.table([pa.array(*one) for one in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
        return Listing(table.append_column("language", pa.array(self._languages, pa.string())), self.dropped)


def _objects(path: Path, dropped: list[Dropped]) -> Iterator[tuple[str, _Json]]:
    """Yield the place and the object of each line; other lines are dropped.

    Raises:
        UserError: the file is cut or damaged.
    """
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    one = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    one = None
                if isinstance(one, dict):
                    yield f"line {number}", one
                else:
                    dropped.append(Dropped(f"{path.name} line {number}", "unreadable row", "not a JSON object"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(str(path), f"it is cut or damaged ({error})", "fetch it again") from error


def _key(value: object) -> object:
    return value if isinstance(value, str | int) else None


def _text(value: object) -> str:
    """Return a value of JSON as text, "" for none; JSON can hold lone surrogates."""
    if value is None or (isinstance(value, str) and value.isascii()):
        return value or ""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def find(path: Path, columns: Columns) -> Path | None:
    """Return a file of cuts, or the first manifest in a folder of them."""
    if path.is_file():
        return path if path.name.lower().endswith(_SUFFIXES) and _is_cuts(path) else None
    names = sorted(one for one in path.iterdir() if _NAME.fullmatch(one.name)) if path.is_dir() else []
    return names[0] if names and Lhotse(path)._files else None


def _is_cuts(path: Path) -> bool:
    """Return whether the first line of a file is a cut, by what it says rather than by the file's name."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as lines:
            first = json.loads(lines.readline(1 << 24).decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and ("supervisions" in first or str(first.get("type")).endswith("Cut"))


LAYOUT = Layout(
    "lhotse's manifests (cuts.jsonl.gz, or recordings.jsonl.gz and supervisions.jsonl.gz)",
    find,
    lambda path, columns: Lhotse(path),
)
