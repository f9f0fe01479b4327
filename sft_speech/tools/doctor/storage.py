"""Checks of disks: free space, permissions, speed, locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sft_speech.tools.doctor.finding import Finding

# Checkpoint of a base-size model: 95 million parameters and two moments of Adam for each, in float32.
CHECKPOINT_BYTES = 95e6 * 3 * 4
BLOCK = bytes(range(256)) * (1 << 14)  # 4 MB, not zeros, which some disks do not store
FILES = 200


def disks(output_dir: str) -> Iterator[Finding]:
    """Check the disk of the output directory, and the other disks that hold caches or temporary files."""
    import datasets
    from huggingface_hub import constants

    places = {
        "output_dir": Path(output_dir),
        "cache of datasets": Path(datasets.config.HF_DATASETS_CACHE),
        "cache of the Hub": Path(constants.HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
    }
    seen: dict[int, str] = {}
    for name, place in places.items():
        folder = next(path for path in (place.absolute(), *place.absolute().parents) if path.is_dir())
        device = folder.stat().st_dev
        try:
            if device in seen:
                with tempfile.TemporaryFile(dir=folder):
                    yield Finding("ok", name, f"{folder}, on the disk of {seen[device]}")
            else:
                seen[device] = name
                yield from _disk(folder, name)
        except OSError as error:
            why = f"{folder} cannot be written ({error.strerror})"
            yield Finding("fault", name, why, "choose another folder, or get write permission there")


def _disk(folder: Path, name: str) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    status = os.statvfs(folder)
    if free < 10 * CHECKPOINT_BYTES:
        do = f"free some space: a base-size checkpoint takes {CHECKPOINT_BYTES / 1e9:.1f} GB, and a run keeps three"
        yield Finding("fault" if free < CHECKPOINT_BYTES else "note", name, f"{free / 1e9:.1f} GB free", do)
    if status.f_files and status.f_favail < 10_000:
        yield Finding("note", name, f"room for only {status.f_favail} more files (inodes)", "remove small files")
    if free < 10 * len(BLOCK):
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="sft-speech-doctor-") as scratch:
        written, read = _throughput(Path(scratch))
        files, locks = _small_files(Path(scratch)), _locks(Path(scratch))
    state = f"{folder}, {free / 1e9:.0f} GB free; writes {written / 1e6:.0f} and reads {read / 1e6:.0f} MB/s"
    yield Finding("ok", name, f"{state}, opens {files:.0f} small files per second")
    yield from _slowness(name, written, files, locks)


def _slowness(name: str, written: float, files: float, locks: bool) -> Iterator[Finding]:
    """Yield a finding for each weakness of a disk.

    Args:
        written: bytes per second.
        files: small files opened per second.
        locks: whether files can be locked.
    """
    if written < 50e6:
        why = f"a checkpoint of a base-size model takes {CHECKPOINT_BYTES / written:.0f} s"
        yield Finding("note", name, f"slow to write: {why}", "use a local disk, or save less often (eval_steps)")
    if files < 300:
        why = "slow to open files: the loader would wait for a corpus of single files"
        yield Finding("note", name, why, "put corpora on a local disk, or into parquet files")
    if not locks:
        why = "no file locks: two runs in one output directory would not notice each other"
        yield Finding("note", name, why, "give every run its own output_dir")


def _throughput(folder: Path, seconds: float = 1.5, most: int = 64) -> tuple[float, float]:
    """Return the bytes per second written to the disk and read from it, without the page cache if possible."""
    file = folder / "block"
    began, blocks = time.perf_counter(), 0
    with open(file, "wb", buffering=0) as sink:
        while blocks < most and time.perf_counter() - began < seconds:
            sink.write(BLOCK)
            os.fsync(sink.fileno())
            blocks += 1
        written = blocks * len(BLOCK) / (time.perf_counter() - began)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(sink.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began, found = time.perf_counter(), 0
    with open(file, "rb", buffering=0) as source:
        while time.perf_counter() - began < seconds and (block := source.read(len(BLOCK))):
            found += len(block)
    return written, found / (time.perf_counter() - began)


def _small_files(folder: Path) -> float:
    """Return the number of files of 4 kB opened and read per second."""
    paths = [folder / f"{number}" for number in range(FILES)]
    for path in paths:
        path.write_bytes(BLOCK[:4096])
    began = time.perf_counter()
    for path in paths:
        path.read_bytes()
    return FILES / (time.perf_counter() - began)


def _locks(folder: Path) -> bool:
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
