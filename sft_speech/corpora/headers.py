"""Headers of many files, read in threads, and cached in an index for as long as the files don't change."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sft_speech.audio.read import Audio, AudioError, probe
from sft_speech.files import open_whole
from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)

# One row per file. key: fingerprint of its name, size and time; reason: why it cannot be used, null if it can; detail:
# about the reason, or what is wrong with the header of a file that is read all the same.
SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("samples", pa.int64()),
        ("rate", pa.int32()),
        ("channels", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_BLOCK = 256  # files that a thread takes at a time
_ABANDONED = 86_400  # seconds after which a file that is being written counts as abandoned
_SHOWN = 3  # files named of each defect
_MISSING = 0  # key of a file that doesn't exist


def scan_files(paths: Sequence[str], index: Path | None) -> pa.Table:
    """Read the headers of files.

    Args:
        paths: distinct.
        index: file of the index; None to use none.

    Returns:
        a table of :data:`SCHEMA`, one row per path in the given order.
    """
    began = time.perf_counter()
    keys = np.concatenate([np.zeros(0, np.uint64), *in_threads(_keys, paths)])
    known = load(index)
    places = _find(known["key"].to_numpy(), keys)
    new = np.flatnonzero((places < 0) & (keys != _MISSING))
    fresh = probe_all([paths[row] for row in new.tolist()], keys[new])
    places[new] = len(known) + np.arange(len(new))
    places[keys == _MISSING] = len(known) + len(new)
    missing = pa.table([[_MISSING], [0], [1], [1], ["missing file"], ["no such file, or not a regular one"]], SCHEMA)
    headers = pa.concat_tables([known, fresh, missing]).take(pa.array(places))
    if index is not None and (len(new) or len(known) != len(paths)):
        save(headers, index)
    _log_notes(paths, headers)
    gone = int((keys == _MISSING).sum())
    counts = f"{len(new):,} read, {len(paths) - len(new) - gone:,} known" + (f", {gone:,} missing" if gone else "")
    logger.info("headers: %s, in %.1f s", counts, time.perf_counter() - began)
    return headers


def _log_notes(paths: Sequence[str], headers: pa.Table) -> None:
    """Log which files are read in spite of a wrong header, one line for each kind of defect."""
    noted = pc.and_(pc.is_null(headers["reason"]), pc.is_valid(headers["detail"]))
    notes: dict[str, list[str]] = {}
    for row in np.flatnonzero(noted.to_numpy()).tolist():
        notes.setdefault(headers["detail"][row].as_py(), []).append(paths[row])
    for note, files in notes.items():
        logger.warning("%s: %s (%s)", counted(len(files), "file"), note, some(files))


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if names[_SHOWN:] else "")


def probe_all(audio: Sequence[Audio | AudioError], keys: np.ndarray, block: int = _BLOCK) -> pa.Table:
    """Read the headers of files or of encoded bytes, one row each.

    Args:
        audio: clips, sliced by the threads; or the error of a clip that is known to be unusable.
        keys: keys of the clips.
        block: how many clips a thread takes at a time.
    """
    columns = list(zip(*chain.from_iterable(in_threads(_probe, audio, "Reading headers", block)), strict=True))
    samples, rates, channels, reasons, details = columns or ((),) * 5
    numbers = (np.array(samples, np.int64), np.array(rates, np.int32), np.array(channels, np.int32))
    return pa.table([keys, *numbers, pa.array(reasons, pa.string()), pa.array(details, pa.string())], SCHEMA)


def _probe(block: Sequence[Audio | AudioError]) -> list[tuple[int, int, int, str | None, str | None]]:
    rows: list[tuple[int, int, int, str | None, str | None]] = []
    for audio in block:
        try:
            if isinstance(audio, AudioError):
                raise audio
            header = probe(audio)
            found = ("silent", "nothing is louder than -80 dB") if header.silent else (None, header.note or None)
            rows.append((header.samples, header.rate, header.channels, *found))
        except AudioError as error:
            rows.append((0, 1, 1, error.reason, str(error)))
    return rows


def in_threads(
    work: Callable[[Sequence[Any]], Any], items: Sequence[Any], title: str | None = None, block: int = _BLOCK
) -> list[Any]:
    """Run ``work`` on blocks of items and return the results in order; a title shows a progress bar on a terminal."""
    from tqdm import tqdm

    # More threads than cores: most of the time they wait for the disk or the network.
    pool = ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1)))
    quiet = None if title and len(items) else True  # None: quiet unless there is a terminal
    results = []
    try:
        with tqdm(total=len(items), desc=title, unit=" files", disable=quiet) as bar:
            for result in pool.map(lambda row: work(items[row : row + block]), range(0, len(items), block)):
                results.append(result)
                bar.update(len(result))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C doesn't wait for 300,000 files
    return results


def _keys(paths: Sequence[str]) -> np.ndarray:
    """Return a fingerprint of each file's name, size and time; 0 if there is no such file."""
    keys = np.zeros(len(paths), np.uint64)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            continue  # a pipe, which would block
        keys[row] = key_of(path, status.st_size, status.st_mtime_ns)
    return keys


def key_of(*parts: object) -> int:
    """Return a 64-bit fingerprint."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _find(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the index of each key among the known ones, -1 if it isn't there."""
    if not len(known):
        return np.full(len(keys), -1)
    order = np.argsort(known)
    nearest = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    return np.where(known[nearest] == keys, nearest, -1)


def load(index: Path | None) -> pa.Table:
    """Return the table in an index; an empty one if the file is missing or cannot be read."""
    empty = SCHEMA.empty_table()
    if index is None or not index.is_file():
        return empty
    try:
        table = pq.read_table(index)
    except (OSError, pa.ArrowException) as error:
        logger.warning("%s cannot be read (%s): headers are read again", index, error)
        return empty
    return table if table.schema == SCHEMA else empty


def save(headers: pa.Table, index: Path) -> None:
    """Write the index, completely or not at all; if it cannot be written, the next run reads the headers again.

    Unreadable files are left out: installing torchcodec or granting a permission does not change the file.
    """
    headers = headers.filter(pc.invert(pc.is_in(headers["reason"], pa.array(["missing file", "unreadable"]))))
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        for left in index.parent.glob("*.part"):  # left by killed processes, on any machine
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                if left.is_file() and time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()
        with open_whole(index) as file:
            pq.write_table(headers, file, compression="zstd")
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next run reads the headers again", index, error)


def index_path(cache_dir: str | os.PathLike[str] | None, *parts: object) -> Path:
    """Return the file of a corpus's index."""
    return own_cache(cache_dir) / f"headers-{key_of(*parts):016x}.parquet"


def own_cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of this package in the cache of ``datasets``."""
    if cache_dir is None:
        import datasets

        cache_dir = datasets.config.HF_DATASETS_CACHE
    return Path(cache_dir) / "sft_speech"
