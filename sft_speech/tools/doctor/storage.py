"""Disks: room, rights, speed, locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sft_speech.tools.doctor.finding import Finding

# A checkpoint of a base-size model: 95 million parameters, each with two moments of Adam, in float32.
CHECKPOINT_BYTES = 95e6 * 3 * 4
BLOCK = bytes(range(256)) * (1 << 14)  # 4 MB that no disk takes for zeros
FILES = 200


def disks(output_dir: str) -> Iterator[Finding]:
    """The disk of the output directory, and those of the caches where they are others."""
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
        if device in seen:
            yield from _writable(folder, name, f"on the disk of {seen[device]}")
            continue
        seen[device] = name
        yield from _disk(folder, name)


def _writable(folder: Path, name: str, said: str) -> Iterator[Finding]:
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Finding("ok", name, f"{folder}, {said}")
    except OSError as error:
        why = f"{folder} can't be written ({error.strerror})"
        yield Finding("fault", name, why, "take another folder, or ask for the right to write there")


def _disk(folder: Path, name: str) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    status = os.statvfs(folder)
    if free < 10 * CHECKPOINT_BYTES:
        do = f"make room: a checkpoint of a base-size model takes {CHECKPOINT_BYTES / 1e9:.1f} GB, a run keeps three"
        yield Finding("fault" if free < CHECKPOINT_BYTES else "note", name, f"{free / 1e9:.1f} GB free", do)
    if status.f_files and status.f_favail < 10_000:
        yield Finding("note", name, f"room for {status.f_favail} more files (inodes)", "remove small files")
    if free < 10 * len(BLOCK):
        return
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="sft-speech-doctor-") as scratch:
            written, read = _throughput(Path(scratch))
            files, locks = _small_files(Path(scratch)), _locks(Path(scratch))
    except OSError as error:
        why = f"{folder} can't be written ({error.strerror})"
        yield Finding("fault", name, why, "take another folder, or ask for the right to write there")
        return
    said = f"{folder}, {free / 1e9:.0f} GB free; writes {written / 1e6:.0f} and reads {read / 1e6:.0f} MB/s"
    yield Finding("ok", name, f"{said}, opens {files:.0f} small files a second")
    if written < 50e6:
        why = f"a checkpoint of a base-size model takes {CHECKPOINT_BYTES / written:.0f} s"
        yield Finding("note", name, f"slow to write: {why}", "take a local disk, or save less often (eval_steps)")
    if files < 300:
        why = "slow to open files: a corpus of single files there would keep the loader waiting"
        yield Finding("note", name, why, "put corpora on a local disk, or into parquet")
    if not locks:
        why = "no file locks: two runs on one output directory would not notice each other"
        yield Finding("note", name, why, "give every run its own output_dir")


def _throughput(folder: Path, seconds: float = 1.5, most: int = 64) -> tuple[float, float]:
    """Bytes per second written, down to the disk, and read, past the system's memory where that lets go of them."""
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
    """Files of 4 kB opened and read per second."""
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
