"""Whether the files that a table names by relative paths lie in its own folder, links followed.

A table may come from elsewhere, and so may the links beside it: neither is to make a private recording, or what can be
told of a file, part of a corpus. A path that is written out from the root is there for all to see, and is allowed. So
is whatever the source itself is a link to; and links into the stores of contents that belong to a folder: those of
git-annex, of DVC and of the Hub's cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import numpy as np

from sft_speech.corpora.headers import in_threads

# Below a folder that the corpus lies in; the Hub's cache has `snapshots/REVISION` beside `blobs`.
_STORES = (".git/annex/objects", ".dvc/cache")


def inside(paths: Sequence[str], root: str) -> np.ndarray:
    """Mask of the paths that lie in ``root`` or a store of its own; what isn't there at all is taken for inside.

    Folders are resolved once, files asked for one thing, whether they are links: a million take some seconds.

    Args:
        paths: absolute; distinct, or the same is asked twice.
        root: a folder.
    """
    allowed = (_closed(os.path.realpath(root)), *_stores(os.path.realpath(root)))

    @cache
    def folder_is_inside(folder: str) -> bool:
        return _closed(os.path.realpath(folder)).startswith(allowed)

    def look(block: Sequence[str]) -> np.ndarray:
        found = np.ones(len(block), bool)
        for row, path in enumerate(block):
            if "\0" in path:  # nothing is called so
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
