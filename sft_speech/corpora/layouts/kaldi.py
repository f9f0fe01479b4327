"""Data directories of Kaldi and ESPnet: wav.scp and text, optionally segments, utt2spk and utt2lang.

https://kaldi-asr.org/doc/data_prep.html. Commands in wav.scp are never executed.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pyarrow as pa

from sft_speech.audio.codecs import AUDIO_SUFFIXES, is_audio
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.inside import inside
from sft_speech.corpora.report import Dropped
from sft_speech.corpora.rows import SCHEMA, Layout, Listing, is_text, subfolders, unnameable
from sft_speech.corpora.splits import unknown
from sft_speech.corpora.texts import lines_of
from sft_speech.errors import UserError

WAVS, TEXT, SEGMENTS = "wav.scp", "text", "segments"
_ABOVE = ("data", "dump")  # paths are relative to the folder of the recipe, which holds these
_ARK = re.compile(r"\.ark:\d+(\[.*\])?$")
_LOOKED_FOR = 20  # relative paths that are looked for in each folder


class Kaldi:
    """The rows of a data directory, or of several in one folder, which are its subsets."""

    whole = False

    def __init__(self, folder: Path, columns: Columns | None = None) -> None:
        self.folder, self.columns = folder.absolute(), columns or {}

    def splits(self) -> list[str]:
        """Return the names of the data directories; none if the folder is one itself."""
        return [] if (self.folder / WAVS).is_file() else [path.name for path in _directories(self.folder)]

    def listing(self, split: str | None = None) -> Listing:
        """Return the rows in the order of the file ``text``.

        Raises:
            UserError: no such split, no transcripts, recordings that are not files, or files of another form.
        """
        named = {path.name: path for path in _directories(self.folder)}
        if split is not None and split not in named:
            raise unknown("split", split, named, given=str(self.folder))
        folder = self.folder if split is None else named[split]
        if not (folder / TEXT).is_file():
            why = f"it has {WAVS}, but no file {TEXT}"
            raise UserError(str(folder), why, "write it: a line per utterance, ID and transcript")
        recordings = _recordings(folder, self.folder)
        spans = _segments(folder)
        speakers = _speakers(folder)
        languages = _pairs(folder / "utt2lang")
        utterances: dict[str, list[object]] = {name: [] for name in (*SCHEMA.names, "language")}
        dropped: list[Dropped] = []
        listed = set()
        for line in lines_of(folder / TEXT):
            if not line:
                continue
            id, *text = line.split(maxsplit=1)
            listed.add(id)
            recording, start, end = (id, None, None) if spans is None else spans.get(id, (None, None, None))
            found = recordings.get(recording or "")
            if isinstance(found, Dropped):
                dropped.append(found._replace(id=id))
            elif recording is None or found is None:
                missing = f"not in {SEGMENTS}" if recording is None else f"{recording} is not in {WAVS}"
                dropped.append(Dropped(id, "missing file", missing))
            elif start != start:  # not a number
                dropped.append(Dropped(id, "bad segment", "start or end is not a number of seconds"))
            else:
                row = (id, found, "".join(text), speakers.get(id, ""), start, end, languages.get(id, ""))
                for column, value in zip(utterances.values(), row, strict=True):
                    column.append(value)
        rows = pa.table({name: utterances[name] for name in SCHEMA.names}, SCHEMA)
        if "language" in self.columns and languages:
            rows = rows.append_column("language", pa.array(utterances["language"], pa.string()))
        ids = recordings if spans is None else spans
        return Listing(
            rows, dropped, [Dropped(id, "no transcript", f"not in {TEXT}") for id in ids if id not in listed]
        )


def _pairs(path: Path) -> dict[str, str]:
    """Return keys and values of lines ``KEY VALUE``; nothing if there is no file.

    Raises:
        UserError: a key that has two values, or a line without a value.
    """
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines_of(path) if path.is_file() else [], 1):
        if not line:
            continue
        key, *value = line.split(maxsplit=1)
        if not value:
            raise UserError(str(path), f"line {number} has no value: {key}", "write ID and value, or remove the line")
        if pairs.setdefault(key, value[0]) != value[0]:
            raise UserError(str(path), f"line {number}: {key} has another value above", "keep one of the two lines")
    return pairs


def _recordings(folder: Path, source: Path) -> dict[str, str | Dropped]:
    """Return the path of each recording, or why it cannot be used.

    Args:
        folder: the data directory.
        source: the folder that the user gave.

    Raises:
        UserError: commands or archives instead of files, or relative paths of which none exists.
    """
    path = folder / WAVS
    pairs = _pairs(path)
    for id, name in pairs.items():
        if name.startswith("|") or name.endswith("|"):
            raise UserError(str(path), f"{id} is a command, which is never run: {name[:200]}", _instead(name, path))
        if _ARK.search(name):
            do = (
                f"write audio files: `wav-copy` of Kaldi, or in ESPnet --audio_format wav; then their paths into {WAVS}"
            )
            raise UserError(str(path), f"{id} is in an archive of Kaldi: {name[:200]}", do)
    _check_channels(folder, pairs)
    relative = {id: name for id, name in pairs.items() if not os.path.isabs(name)}
    root = _root(folder, source, list(relative.values())) if relative else folder
    found: dict[str, str | Dropped] = {id: name if name[0] == "/" else f"{root}/{name}" for id, name in pairs.items()}
    paths = list(dict.fromkeys(str(found[id]) for id in relative))
    outside = {path for path, within in zip(paths, inside(paths, str(root)), strict=True) if not within}
    for id, name in pairs.items():
        if not is_text(str(found[id])):
            found[id] = unnameable(id, str(found[id]))
        elif id in relative and found[id] in outside:
            detail = f"{name} is outside {root}; to use it, write its absolute path into {WAVS}"
            found[id] = Dropped(id, "outside the corpus folder", detail)
    return found


def _instead(command: str, path: Path) -> str:
    """Return what to do about a command; if it reads one file, that file can often stand for it."""
    files = [word for word in command.split() if is_audio(os.path.basename(word))]
    if len(files) != 1 or not command.endswith("|"):
        return "run the commands, and write the paths of the files that they make in their place"
    suffixes = "|".join(sorted(suffix.removeprefix(".") for suffix in AUDIO_SUFFIXES))
    edit = rf"sed -i.bak -E 's/^(\S+)\s.*\s(\S+\.({suffixes}))(\s.*)?\|\s*$/\1 \2/' {path}"
    return f"if they only decode a file, as here {files[0]}, name it: {edit}"


def _check_channels(folder: Path, pairs: dict[str, str]) -> None:
    """Raise UserError if two recordings are channels of one file."""
    if not (folder / "reco2file_and_channel").is_file() or len(set(pairs.values())) == len(pairs):
        return
    first: dict[str, str] = {}
    for id, name in pairs.items():
        if first.setdefault(name, id) != id:
            why = f"{first[name]} and {id} are the same file {name}: which channel is which is not read from here"
            raise UserError(str(folder / WAVS), why, "write each channel into its own file, e.g. sox IN OUT remix 1")


def _root(folder: Path, source: Path, names: list[str]) -> Path:
    """Return the folder that relative paths start from: the data directory, the source, or that of the recipe.

    Raises:
        UserError: none of the first paths is in one of them.
    """
    above = [parent.parent for parent in folder.parents if parent.name in _ABOVE][:1]
    candidates = list(dict.fromkeys([folder, source, *above]))
    for root in candidates:
        if any((root / name).is_file() for name in names[:_LOOKED_FOR] if "\0" not in name):
            return root
    looked = " or ".join(map(str, candidates))
    do = r"write absolute paths: sed -i.bak -E 's/^(\S+)\s+/\1 \/FOLDER\//' " + str(folder / WAVS)
    raise UserError(str(folder / WAVS), f"{names[0]} is not in {looked}", do)


def _segments(folder: Path) -> dict[str, tuple[str, float | None, float | None]] | None:
    """Return recording, start and end in seconds of each utterance, None for the file's end; None without segments.

    A start of NaN marks a row that is not numbers.
    """
    if not (folder / SEGMENTS).is_file():
        return None
    spans: dict[str, tuple[str, float | None, float | None]] = {}
    for id, value in _pairs(folder / SEGMENTS).items():
        recording, *times = value.split()
        try:
            start, end = map(float, times[:2])
            right = math.isfinite(start) and start >= 0 and math.isfinite(end) and (end >= 0 or end == -1)
        except ValueError:
            right = False
        spans[id] = (recording, start, None if end == -1 else end) if right else (recording, math.nan, None)
    return spans


def _speakers(folder: Path) -> dict[str, str]:
    """Return the speaker of each utterance; none if each is its own speaker, which means that they are not known."""
    speakers = _pairs(folder / "utt2spk")
    return {} if all(id == speaker for id, speaker in speakers.items()) else speakers


def _directories(folder: Path) -> list[Path]:
    """Return the data directories in a folder, or in ``data`` or ``dump/raw`` of a recipe.

    Raises:
        UserError: a recipe that has both.
    """
    if (found := _holders(folder)) or not folder.is_dir():
        return found
    places = [folder / name for name in ("data", "dump/raw", "raw") if _holders(folder / name)]
    if len(places) > 1:
        names = " and ".join(str(place.relative_to(folder)) for place in places)
        raise UserError(str(folder), f"there are data directories in {names}", f"give {places[0]} or {places[1]}")
    return _holders(places[0]) if places else []


def _holders(folder: Path) -> list[Path]:
    return [path for path in subfolders(folder) if (path / WAVS).is_file()]


def _features_only(folder: Path) -> bool:
    """Return whether a folder has ESPnet's data.json, which names features."""
    try:
        with open(folder / "data.json", "rb") as file:
            return b'"utts"' in file.read(4096)
    except OSError:
        return False


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first wav.scp.

    Raises:
        UserError: a recipe with several folders of data, or a folder of features.
    """
    if (folder / WAVS).is_file():
        return folder / WAVS
    if _features_only(folder):
        why = "its data.json names features, not recordings"
        raise UserError(str(folder), why, f"give the folder with {WAVS} and {TEXT} that they were made from")
    return next((path / WAVS for path in _directories(folder)), None)


LAYOUT = Layout("a data directory of Kaldi or ESPnet, or several (wav.scp, text, ...)", find, Kaldi)
