"""WebDataset: shards ``*.tar`` of samples, each of which is a recording ``KEY.flac`` with ``KEY.txt`` or ``KEY.json``.

The shards are unpacked once, like other archives: ``datasets`` would copy them too, into Arrow, and needs the same
fields in all samples. A key may come again in another shard, so the id of a row is ``SHARD/KEY``.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.annotated import Unreadable, files_below, first_files, one_line, split_names, text_of
from sft_speech.corpora.archive import unpacked
from sft_speech.corpora.columns import NAMES, OPTIONAL, Columns, find_columns, label_of
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import Layout, Listing, is_text, rows_of, unnameable
from sft_speech.corpora.splits import unknown
from sft_speech.corpora.weights import WEIGHT

_LOOKED_AT = 100  # members of a shard in which a sample is looked for


class WebDataset:
    """The rows of a folder of shards, or of one that was unpacked by hand.

    Its subsets are the folders of the shards, or the names before their numbers (``train-000001.tar``), if all of them
    are names of splits.
    """

    whole = False

    def __init__(self, folder: Path, columns: Columns, cache_dir: str | os.PathLike[str] | None = None) -> None:
        self.folder, self.columns, self.cache_dir = folder.absolute(), columns, cache_dir

    @cached_property
    def _shards(self) -> list[str]:
        """The shards, relative to the folder."""
        return [os.path.relpath(path, self.folder) for path in files_below(self.folder) if path.endswith(".tar")]

    def splits(self) -> list[str]:
        """Return the names of the subsets."""
        return split_names(map(_split_of, self._shards))

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the shards' names and of the files' in them.

        Raises:
            UserError: no such split, a shard cannot be unpacked, or several fields can be the text.
        """
        if split is not None and split not in self.splits():
            raise unknown("split", split, self.splits(), given=str(self.folder))
        rows: dict[str, list[str]] = {name: [] for name in ("id", "audio", "text", "speaker", *OPTIONAL)}
        dropped: list[Dropped] = []
        for shard in self._shards or [""]:
            if split is not None and _split_of(shard) != split:
                continue
            root = unpacked(str(self.folder / shard), self.cache_dir) if shard else str(self.folder)
            prefix = f"{shard.removesuffix('.tar')}/" if shard else ""
            for path, beside in _samples(root):
                if not is_text(path):
                    dropped.append(unnameable(os.path.basename(path), path))
                    continue
                id = prefix + os.path.relpath(path, root).removesuffix(os.path.splitext(path)[1])
                try:
                    fields = self._fields(beside)
                except (Unreadable, OSError) as error:
                    dropped.append(Dropped(id, "unreadable", str(error)))
                    continue
                if fields is None:
                    dropped.append(Dropped(id, "no transcript", path))
                    continue
                for name, values in rows.items():
                    values.append(({"id": id, "audio": path} | fields).get(name, ""))
        table = rows_of(rows["id"], rows["audio"], rows["text"], rows["speaker"], dropped)
        for name in (name for name in OPTIONAL if name != WEIGHT or name in self.columns):
            table = table.append_column(name, pa.array(rows[name], pa.string()))
        return Listing(table, dropped)

    def _fields(self, beside: list[str]) -> dict[str, str] | None:
        """Return text, speaker, label and language of a sample; None if it has no file of them.

        Args:
            beside: its other files.

        Raises:
            Unreadable: its JSON has no text.
            UserError: several fields can be the text.
        """
        by_suffix = {path.rpartition(".")[2].lower(): path for path in beside}
        text = one_line(text_of(by_suffix["txt"])) if "txt" in by_suffix else None
        if "json" not in by_suffix:
            return None if text is None else {"text": text}
        content = json_of(by_suffix["json"])
        own = [name for name in content if name not in NAMES["audio"]]
        if text is not None:
            content["text"] = text
            own = [name for name in own if name not in NAMES["text"]] + ["text"]
        elif not set(own) & {*NAMES["text"], self.columns.get("text")} and "label" not in self.columns:
            raise Unreadable(f"no text in its JSON: its fields are {', '.join(own)[:200]}")
        named = {role: name for role, name in self.columns.items() if name in own or name is None}
        found = find_columns([*own, "audio"], named, by_suffix["json"])
        return {role: one_line(_text(content.get(name))) for role, name in found.items() if role not in ("audio", "id")}


def json_of(path: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        Unreadable: there is none.
    """
    try:
        content = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable("not JSON") from error
    if not isinstance(content, dict):
        raise Unreadable("not a JSON object")
    return {_text(name): value for name, value in content.items()}


def _text(value: object) -> str:
    """Return a value of JSON as text; it can hold lone surrogates."""
    return label_of(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _samples(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each recording with the files of the same key: its name up to the last dot, or else up to the first."""
    files: dict[str, list[str]] = {}
    recordings = []
    for path in files_below(folder):
        if is_audio(os.path.basename(path)):
            recordings.append(path)
        else:
            for key in {os.path.splitext(path)[0], _key(path)}:
                files.setdefault(key, []).append(path)
    for path in recordings:
        yield path, files.get(os.path.splitext(path)[0]) or files.get(_key(path), [])


def _key(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, name.partition(".")[0])


def _split_of(shard: str) -> str:
    """Return the topmost folder of a shard, or its name up to the number."""
    folder, _, rest = shard.partition(os.sep)
    return folder if rest else folder.removesuffix(".tar").rstrip("0123456789").rstrip("-_.")


def _is_shard(path: Path) -> bool:
    """Return whether the first files in a tar are those of samples."""
    texts: set[str] = set()
    recordings: set[str] = set()
    try:
        with tarfile.open(path) as tar:
            for member, _ in zip(tar, range(_LOOKED_AT), strict=False):
                (recordings if is_audio(os.path.basename(member.name)) else texts).add(_key(member.name))
    except (OSError, tarfile.TarError, EOFError, ValueError):
        return False
    return bool(recordings & texts)


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first shard, or the JSON beside the first recording if it has a text."""
    if not folder.is_dir():
        return None
    shard = first_files(folder).get(".tar")
    if shard is not None:
        return shard if _is_shard(shard) else None
    first = next((path for path in files_below(folder) if is_audio(os.path.basename(path))), None)
    beside = Path(first).with_suffix(".json") if first else None
    if beside is None or not beside.is_file():
        return None
    try:
        fields = json_of(str(beside))
    except (Unreadable, OSError):
        return None
    return beside if fields.keys() & {*NAMES["text"], columns.get("text")} else None


LAYOUT = Layout("WebDataset's shards (*.tar of KEY.flac with KEY.txt or KEY.json)", find, WebDataset, 1, True)
