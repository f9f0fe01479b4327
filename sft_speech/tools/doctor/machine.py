"""Checks of packages, cores and memory."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from sft_speech.machine import CGROUP, first_line, free_memory, installer
from sft_speech.tools.doctor.finding import Finding

EXTRAS = {
    "lm": "beam search with a language model",
    "codecs": "M4A, WebM and video",
    "demo": "the speech of the demo",
    "demo-page": "sft-speech demo",
    "tracking": "mlflow and wandb for report_to",
}


def packages() -> Iterator[Finding]:
    """Compare the installed packages with the requirements; list missing extras."""
    from packaging.requirements import Requirement

    installed: list[str] = []
    absent: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    for requirement in map(Requirement, requires("sft_speech") or []):
        extra = next((name for name in EXTRAS if _only_with(requirement, name)), None)
        if extra is None and requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            if extra is None:
                yield Finding("fault", requirement.name, "not installed", f"{installer()} '{wanted}'")
            else:
                absent[extra].append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            why = f"{found} is installed, but {requirement.specifier} is required"
            yield Finding("fault" if extra is None else "note", requirement.name, why, f"{installer()} '{wanted}'")
        elif extra is None:
            installed.append(f"{requirement.name} {found}")
    yield Finding("ok", "packages", ", ".join(installed))
    for extra, names in absent.items():
        if names:
            do = f"{installer()} 'sft_speech[{extra}]' for {EXTRAS[extra]}"
            yield Finding("note", f"extra {extra}", f"{', '.join(names)} not installed", do)


def _only_with(requirement: object, extra: str) -> bool:
    marker = getattr(requirement, "marker", None)
    return marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra})


def processors(cgroup: Path = CGROUP) -> Iterator[Finding]:
    """Count the cores that this process may use, given its affinity and the quota of its container."""
    all_cores = os.cpu_count() or 1
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_cores)
    quota = first_line(cgroup / "cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, int(quota[0]) / int(quota[1]))
    threads = os.environ.get("OMP_NUM_THREADS")
    state = f"{cores:g} cores" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    do = f"set OMP_NUM_THREADS={max(1, int(cores))}: otherwise libraries use all {all_cores} cores of the machine"
    yield Finding("note", "cores", state, do).unless(bool(threads) or cores >= all_cores, state)


def memory(cgroup: Path = CGROUP) -> Iterator[Finding]:
    """Check the free memory, within the limit of the container, and the shared memory for loader workers."""
    import psutil

    left, limit = free_memory(cgroup)
    state = f"{left / 1e9:.1f} GB free of {psutil.virtual_memory().total / 1e9:.1f}" + (
        f", limited to {limit / 1e9:.1f}" if limit is not None else ""
    )
    do = "lower dataloader_num_workers, and max_batch_seconds if there is no GPU"
    yield Finding("note", "memory", state, do).unless(left >= 4e9, state)
    if Path("/dev/shm").is_dir():
        room = shutil.disk_usage("/dev/shm").free
        do = "docker run --shm-size 8g (or --ipc host), or dataloader_num_workers 0"
        why = f"{room / 1e6:.0f} MB in /dev/shm, which loader workers need for batches"
        yield Finding("note", "shared memory", why, do).unless(room >= 1e9, f"{room / 1e9:.1f} GB")


def open_files() -> Iterator[Finding]:
    """Check how many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    do = f"ulimit -n {min(4096, hard) if hard > 0 else 4096}"
    why = f"{soft} at most; workers need them to share tensors"
    yield Finding("note", "open files", why, do).unless(soft >= 1024, f"{soft} at most")
