"""Large tables in files that are mapped into memory: processes share them, and the system can drop their pages."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

LARGE = 20_000  # rows; smaller tables take a few MB and stay in memory
DAYS = 30  # how long a file is kept after its last use
_CHUNK = 10_000  # rows


def mapped(table: pa.Table, cache_dir: str | os.PathLike[str] | None = None) -> datasets.table.Table:
    """Return a table for a ``Dataset``, mapped from a file if it is large.

    The file is beside the cache of ``datasets``, named by a fingerprint of its content: it never changes, and another
    process that makes the same table finds it. It is written completely or not at all; if that fails, the table
    stays in memory.
    """
    import datasets

    if len(table) < LARGE:
        return datasets.table.InMemoryTable(table)
    digest = _Digest()
    _write(table, digest)
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "sft_speech"
    path = folder / f"rows-{digest.hash.hexdigest()}.arrow"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            remove_old(folder)
            with open(part, "wb") as file:
                _write(table, file)
            os.replace(part, path)
        with contextlib.suppress(PermissionError):  # owned by another user
            os.utime(path)
        return datasets.table.MemoryMappedTable.from_file(str(path))
    except (OSError, pa.ArrowException) as error:
        for broken in (part, path):  # also if damaged: the next run writes it again
            with contextlib.suppress(OSError):
                broken.unlink()
        logger.warning("%s cannot be used (%s): every process holds %d rows in its own memory", path, error, len(table))
        return datasets.table.InMemoryTable(table)


def remove_old(folder: Path) -> None:
    """Remove tables that have not been used lately; a process that has one mapped keeps it."""
    for path in folder.glob("rows-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - DAYS * 86_400:
                path.unlink()


def _write(table: pa.Table, file: Any) -> None:
    with pa.PythonFile(file, "w") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_CHUNK)


class _Digest:
    """A file that keeps only a fingerprint of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> None:
        self.hash.update(data)

    def flush(self) -> None:
        """Do nothing; Arrow calls it."""

    def close(self) -> None:
        """Do nothing; Arrow calls it."""
