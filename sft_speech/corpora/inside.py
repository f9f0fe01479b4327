"""A check that the files that a table names by relative paths are in its folder, with links resolved.

A table may come from elsewhere, and so may the links beside it: neither may make a private recording, or anything about
a file, part of a corpus. An absolute path is plain to see, and allowed. So are the target of the source if that is
itself a link, and links into the content stores of git-annex, DVC and the Hub's cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import numpy as np

from sft_speech.corpora.headers import in_threads

# Below a folder that the corpus is in; the Hub's cache has `snapshots/REVISION` beside `blobs`.
_STORES = (".git/annex/objects", ".dvc/cache")


def inside(paths: Sequence[str], root: str) -> np.ndarray:
    """Return a mask of the paths that are in ``root`` or one of its stores; a path that doesn't exist counts as inside.

    Each folder is resolved once, and a file only if it is a link: a million paths take some seconds.

    Args:
        paths: absolute and distinct.
        root: a folder.
    """
    allowed = (_closed(os.path.realpath(root)), *_stores(os.path.realpath(root)))

    @cache
    def folder_is_inside(folder: str) -> bool:
        return _closed(os.path.realpath(folder)).startswith(allowed)

    def look(block: Sequence[str]) -> np.ndarray:
        found = np.ones(len(block), bool)
        for row, path in enumerate(block):
            if "\0" in path:  # no file has such a name
                continue
            folder, name = os.path.split(path)
            linked = name in (os.curdir, os.pardir) or os.path.islink(path)
            found[row] = os.path.realpath(path).startswith(allowed) if linked else folder_is_inside(folder)
        return found

    return np.concatenate([np.zeros(0, bool), *in_threads(look, paths)])


def _stores(root: str) -> list[str]:
    stores, folder = [], root
    while True:
        stores += [f"{folder}/{store}/" for store in _STORES if os.path.isdir(f"{folder}/{store}")]
        above = os.path.dirname(folder)
        if os.path.basename(above) == "snapshots":
            stores.append(f"{os.path.dirname(above)}/blobs/")
        if above == folder:
            return stores
        folder = above


def _closed(folder: str) -> str:
    return folder.rstrip("/") + "/"
