"""The headers of many files, read in threads, once: an index remembers them for as long as the files are unchanged."""

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

logger = logging.getLogger(__name__)

# A row per file. key: of its name, size and time; reason: why it can't be used, null where it can.
SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("samples", pa.int64()),
        ("rate", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_BLOCK = 256  # files that a thread takes at a time
_ABANDONED = 86_400  # seconds after which nobody writes on at a file: an index takes some
_MISSING = 0  # key of a file that is not there


def scan_files(paths: Sequence[str], index: Path | None) -> pa.Table:
    """Reads the headers of files.

    Args:
        paths: distinct.
        index: where the index lies, or is to lie; None for none.

    Returns:
        a table of :data:`SCHEMA`, a row per path in the order given.
    """
    began = time.perf_counter()
    keys = np.concatenate([np.zeros(0, np.uint64), *in_threads(_keys, paths)])
    known = load(index)
    places = _find(known["key"].to_numpy(), keys)
    new = np.flatnonzero((places < 0) & (keys != _MISSING))
    fresh = probe_all([paths[row] for row in new.tolist()], keys[new])
    places[new] = len(known) + np.arange(len(new))
    places[keys == _MISSING] = len(known) + len(new)
    missing = pa.table([[_MISSING], [0], [1], ["missing file"], ["no such file, or no ordinary one"]], SCHEMA)
    headers = pa.concat_tables([known, fresh, missing]).take(pa.array(places))
    if index is not None and (len(new) or len(known) != len(paths)):
        save(headers, index)
    logger.info("%d headers read, %d known, in %.1f s", len(new), len(paths) - len(new), time.perf_counter() - began)
    return headers


def probe_all(audio: Sequence[Audio | AudioError], keys: np.ndarray, block: int = _BLOCK) -> pa.Table:
    """Headers of files or of encoded bytes, a row each; ``audio`` is sliced by the threads, ``block`` at a time.

    Args:
        audio: an error where it is known already that this one can't be used.
    """
    columns = list(zip(*chain.from_iterable(in_threads(_probe, audio, "Reading headers", block)), strict=True))
    samples, rates, reasons, details = columns or ((),) * 4
    texts = (pa.array(reasons, pa.string()), pa.array(details, pa.string()))
    return pa.table([keys, np.array(samples, np.int64), np.array(rates, np.int32), *texts], SCHEMA)


def _probe(block: Sequence[Audio | AudioError]) -> list[tuple[int, int, str | None, str | None]]:
    rows: list[tuple[int, int, str | None, str | None]] = []
    for audio in block:
        try:
            if isinstance(audio, AudioError):
                raise audio
            header = probe(audio)
            silent = ("silent", "nothing is louder than -80 dB") if header.silent else (None, None)
            rows.append((header.samples, header.rate, *silent))
        except AudioError as error:
            rows.append((0, 1, error.reason, str(error)))
    return rows


def in_threads(
    work: Callable[[Sequence[Any]], Any], items: Sequence[Any], title: str | None = None, block: int = _BLOCK
) -> list[Any]:
    """``work`` on blocks of items, results in their order; a progress bar where there is a title and a terminal."""
    from tqdm import tqdm

    # Threads wait for the disk, or the network behind it, most of the time: more of them than cores.
    pool = ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1)))
    quiet = None if title and len(items) else True  # None: where there is a terminal
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
    """A 64-bit fingerprint of each file's name, size and time of change; 0 where there is no such file of data."""
    keys = np.zeros(len(paths), np.uint64)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            continue  # a pipe, which would be waited for
        keys[row] = key_of(path, status.st_size, status.st_mtime_ns)
    return keys


def key_of(*parts: object) -> int:
    """A 64-bit fingerprint."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _find(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Place of each key among the known ones, -1 where it isn't there."""
    if not len(known):
        return np.full(len(keys), -1)
    order = np.argsort(known)
    nearest = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    return np.where(known[nearest] == keys, nearest, -1)


def load(index: Path | None) -> pa.Table:
    """What an index holds; nothing where there is none, or none that can be read."""
    empty = SCHEMA.empty_table()
    if index is None or not index.is_file():
        return empty
    try:
        table = pq.read_table(index)
    except (OSError, pa.ArrowException) as error:
        logger.warning("%s can't be read (%s): headers are read anew", index, error)
        return empty
    return table if table.schema == SCHEMA else empty


def save(headers: pa.Table, index: Path) -> None:
    """Writes the index, whole or not at all; where that isn't possible, the next run reads the headers again.

    What couldn't be read isn't remembered: torchcodec may come, or the right to read a file, and no file has changed.
    """
    headers = headers.filter(pc.invert(pc.is_in(headers["reason"], pa.array(["missing file", "unreadable"]))))
    part = index.with_name(f"{index.name}.{os.getpid()}.part")
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        for left in index.parent.glob("*.part"):  # by runs that were killed, on any machine
            with contextlib.suppress(FileNotFoundError):  # another process removes it too
                if left.is_file() and time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()
        pq.write_table(headers, part, compression="zstd")
        os.replace(part, index)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        logger.warning("%s can't be written (%s): the next run reads the headers again", index, error)


def index_path(cache_dir: str | os.PathLike[str] | None, *parts: object) -> Path:
    """Where the index of a corpus lies."""
    return own_cache(cache_dir) / f"headers-{key_of(*parts):016x}.parquet"


def own_cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    """What we keep, beside the cache of ``datasets``."""
    if cache_dir is None:
        import datasets

        cache_dir = datasets.config.HF_DATASETS_CACHE
    return Path(cache_dir) / "sft_speech"
