"""The files that a table means by paths written on another system.

Tables come from Windows (``wavs\\a.wav``, ``C:\\corpus\\wavs\\a.wav``), from macOS (letters and accents apart), from
another machine (``/data/corpus/wavs/a.wav``), from web pages (``my%20file.wav``, ``file:///data/a.wav``), or write
``A.WAV`` for ``a.wav``. A file is taken only if no other one can be meant and no other row names it.

Only paths that don't exist are looked at, and the corpus's folder is listed once for all of them.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from urllib.parse import unquote

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.corpora.inside import inside
from sft_speech.corpora.rows import is_text

logger = logging.getLogger(__name__)

Key = tuple[str, ...]  # the names in a path, each without case, spaces at its ends, and the like

MISSING = "missing file"
_MOST_FILES = 2_000_000  # listed in a folder; it may be somebody's home
_COMPARED = 20_000  # names in search of the nearest
_EXPLAINED = 3  # missing files whose nearest name is looked for: as many as the report shows
# The beginning of a path that is absolute on some system, after the folder that a table's reader has put before it.
_ABSOLUTE = re.compile(r"(?:^|/)\s*((?:file:/|~[/\\]|[a-z]:[/\\]|\\\\).*)", re.DOTALL | re.IGNORECASE)
_URL = re.compile(r"(?:^|/)((?!file:)[a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_NO_FILE = "no such file, or not a regular one"


@dataclass
class Found:
    """The result of a search for missing files.

    Args:
        paths: the file that is meant by a missing path.
        why: the reason why there is none, and details, by missing path.
    """

    paths: dict[str, str] = field(default_factory=dict)
    why: dict[str, tuple[str, str]] = field(default_factory=dict)


def find_missing(missing: Sequence[str], present: Sequence[str], folder: str) -> Found:
    """Find the files that are meant by paths that don't exist, and log how many there are.

    Args:
        missing: absolute paths as the rows of a table give them, distinct.
        present: the paths of the other rows.
        folder: the corpus's folder, absolute. Files that were named by relative paths must be in it.
    """
    written = {path: _written(path, folder) for path in missing}
    plain = {path: _plain(own) for path, own in written.items()}
    meant, tree = _spelled_otherwise(written, folder), _Tree()
    searched = {path: plain[path] for path, own in written.items() if path not in meant and not _URL.search(own)}
    if searched:
        tree = _Tree.of(folder, searched)
        meant |= tree.search(searched, folder, {os.path.dirname(path) for path in present})
    names = Counter(meant.values())
    taken = set(present) if meant else set()
    meant = {path: file for path, file in meant.items() if names[file] == 1 and file not in taken}
    below = [path for path in meant if path in searched or not os.path.isabs(plain[path])]
    within = dict(zip(below, inside([meant[path] for path in below], folder).tolist(), strict=True))
    found = Found({path: file for path, file in meant.items() if within.get(path, True)})
    for path, own in written.items():
        if path in meant and path not in found.paths:
            found.why[path] = "outside the corpus folder", f"{own} is outside {folder}; write its absolute path"
        elif path not in meant:
            found.why[path] = MISSING, tree.explain(own, plain[path], len(found.why) < _EXPLAINED)
    if found.paths:
        logger.warning("%s: %s", folder, _summary(found.paths, written, plain, folder, len(missing) + len(present)))
    return found


def _written(path: str, folder: str) -> str:
    """Return a path as it is in the table: relative if it is below the folder, absolute otherwise."""
    own = path[len(folder) :].lstrip("/") if path.startswith(folder.rstrip("/") + "/") else path
    found = _ABSOLUTE.search(own)
    return found[1] if found else own


# ---- other spellings of a path ----


def _spellings(own: str) -> Iterator[str]:
    """Yield spellings of a path for this system, each with one more change than the one before."""
    own = "/".join(name.strip() for name in own.split("/"))
    yield own
    if own.lower().startswith("file:/"):
        own = "/" + unquote(re.sub(r"^file:/+(?:localhost/)?", "", own, flags=re.IGNORECASE))
        yield own
    if "\\" in own:
        own = own.replace("\\", "/")
        yield own
    if drive := re.match(r"/?[A-Za-z]:/", own):
        own = own[drive.end() - 1 :]
        yield own
    if "%" in own:
        yield unquote(own)


def _plain(own: str) -> str:
    """Return the last of the spellings of a path, in which ``~`` is the home directory."""
    *_, last = _spellings(own)
    return os.path.expanduser(last)


def _spelled_otherwise(written: dict[str, str], folder: str) -> dict[str, str]:
    """Return the files that are where a path says in another spelling."""
    meant = {}
    for path, own in written.items():
        for spelling in _spellings(own):
            file = os.path.normpath(os.path.join(folder, os.path.expanduser(spelling)))
            if file != path and is_text(file) and os.path.isfile(file):
                meant[path] = file
                break
    return meant


# ---- other names of folders and files ----


def _key(name: str) -> str:
    name = unquote(name) if "%" in name else name
    if not name.isascii():
        name = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return name.strip().lower()


def _keys(path: str) -> Key:
    return tuple(_key(name) for name in path.split("/") if name not in ("", os.curdir))


@dataclass
class _Tree:
    """The files below a folder.

    Args:
        files: paths relative to the folder, by the key of their name: those with the name of a missing file.
        names: paths of all files relative to the folder.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: str, searched: dict[str, str]) -> _Tree:
        """List a folder; hidden folders are left out."""
        wanted = {_key(os.path.basename(plain)) for plain in searched.values()}
        bare = {key for key in wanted if os.path.splitext(key)[1] not in AUDIO_SUFFIXES}  # tables may leave out endings
        found: dict[str, list[str]] = defaultdict(list)
        names: list[str] = []
        for name in islice(_files(folder), _MOST_FILES):
            names.append(name)
            key = _key(os.path.basename(name))
            stem, suffix = os.path.splitext(key)
            if key in wanted:
                found[key].append(name)
            if suffix in AUDIO_SUFFIXES and stem in bare:
                found[stem].append(name)
        if len(names) == _MOST_FILES:
            logger.warning("%s has more than %d files: missing ones are not searched for", folder, _MOST_FILES)
            return cls()
        return cls(dict(found), names)

    def search(self, searched: dict[str, str], folder: str, used: set[str]) -> dict[str, str]:
        """Return the files whose paths agree with missing ones as far as both go.

        Args:
            searched: plain paths by missing ones.
            used: folders that other rows name and that exist: what is missing there is not anywhere else.
        """
        meant: dict[str, str] = {}
        moved: dict[Key, dict[str, list[str]]] = defaultdict(dict)  # missing paths and their candidates by folder
        for path, plain in searched.items():
            keys = _keys(os.path.normpath(plain))
            candidates = self.files.get(keys[-1] if keys else "", [])
            same = [name for name in candidates if _agree(_keys(name), keys)]
            if len(chosen := _closest(same, plain)) == 1:
                meant[path] = os.path.join(folder, chosen[0])
            elif not same and os.path.dirname(os.path.join(folder, plain)) not in used:
                moved[keys[:-1]][path] = candidates
        for above, rows in moved.items():
            for path, name in _in_other_folder(above, rows, searched).items():
                meant[path] = os.path.join(folder, name)
        return {path: file for path, file in meant.items() if os.path.isfile(file)}

    def explain(self, own: str, plain: str, nearest: bool) -> str:
        """Return why a missing file cannot be found; with the nearest name if asked for."""
        if url := _URL.search(own):
            return f"a URL ({url[1]}): download the files, and name them by their paths"
        if not nearest:
            return _NO_FILE
        same = self.files.get(_key(os.path.basename(plain)), [])
        if same:
            return f"{_NO_FILE}; there is {' and '.join(same[:2])}"
        stem, *stems = (os.path.splitext(os.path.basename(name))[0] for name in (plain, *self.names[:_COMPARED]))
        near = difflib.get_close_matches(stem, stems, 1, 0.8)
        return f"{_NO_FILE}; the nearest name is {self.names[stems.index(near[0])]}" if near else _NO_FILE


def _files(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        above = os.path.relpath(parent, folder)
        for name in sorted(files):
            if is_text(path := name if above == os.curdir else f"{above}/{name}"):
                yield path


def _agree(found: Key, keys: Key) -> bool:
    """Return whether two paths have the same folders, and names with the same key or without an ending."""
    return found[:-1] == keys[:-1] and found[-1].startswith(keys[-1])


def _closest(names: list[str], plain: str) -> list[str]:
    """Return the names that differ least from the end of a path: in nothing, in the form of letters, or in case."""
    if len(names) < 2:
        return names
    for form in (str, lambda text: unicodedata.normalize("NFC", text)):
        same = [name for name in names if f"/{form(plain)}".endswith(f"/{form(name)}")]
        if same:
            return same
    return names


def _in_other_folder(above: Key, rows: dict[str, list[str]], plain: dict[str, str]) -> dict[str, str]:
    """Return the files of paths whose folder ``above`` is not below the corpus's folder, at least not there.

    It is the folder that holds most of the names among those whose path is the end of the folder's. If there is none,
    each name must be unique among the folders whose paths end with the folder's.
    """
    folders: dict[Key, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, names in rows.items():
        for name in names:
            folders[_keys(name)[:-1]][path].append(name)
    ends = [keys for keys in folders if keys == above[len(above) - len(keys) :]]
    if ends:
        best = folders[max(ends, key=lambda keys: (len(folders[keys]), len(keys)))]
    else:
        best = defaultdict(list)
        for keys, found in folders.items():
            if keys[len(keys) - len(above) :] == above:
                for path, names in found.items():
                    best[path] += names
    closest = {path: _closest(names, plain[path]) for path, names in best.items()}
    return {path: names[0] for path, names in closest.items() if len(names) == 1}


# ---- words ----


def _summary(found: dict[str, str], written: dict[str, str], plain: dict[str, str], folder: str, files: int) -> str:
    """Return one line with the number of files by the way in which their paths differ, and an example of each."""
    ways: dict[str, list[str]] = defaultdict(list)
    for path, file in found.items():
        ways[_difference(written[path], plain[path], os.path.relpath(file, folder))].append(path)
    shown = []
    for way, paths in sorted(ways.items(), key=lambda item: -len(item[1])):
        file = found[paths[0]]
        name = os.path.relpath(file, folder) if file.startswith(folder) else file
        shown.append(f"{len(paths):,} by {way} ({written[paths[0]]} is {name})")
    return f"{len(found):,} of {files:,} files are not where their paths say, and were found: {', '.join(shown)}"


def _difference(own: str, plain: str, file: str) -> str:
    """Return how a path differs from that of its file."""
    ways = []
    if own.lower().startswith("file:/"):
        ways.append("file:// URL")
    if own.startswith("~"):
        ways.append("~")
    if "\\" in own:
        ways.append("backslashes")
    if any(name != name.strip() for name in own.split("/")):
        ways.append("spaces")
    if "%" in own and "%" not in file:
        ways.append("percent signs")
    plain = os.path.normpath(plain)
    if os.path.isabs(plain) and os.path.isfile(plain):
        return " and ".join(ways)
    keys, found = _keys(plain), _keys(file)
    if keys[:-1] != found[:-1]:
        ways.append("another folder")
    if keys[-1] != found[-1]:
        ways.append("ending")
    depth = min(len(keys), len(found))
    end, there = ("/".join(one.split("/")[-depth:]) for one in (plain, file))
    composed, composed_there = (unicodedata.normalize("NFC", one) for one in (end, there))
    if composed != end or composed_there != there:
        ways.append("Unicode form")
    if composed != composed_there and composed.casefold() == composed_there.casefold():
        ways.append("upper and lower case")
    return " and ".join(ways) or "another spelling"
