"""What a machine has free, within the limits of the container, and how packages are installed on it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def installer() -> str:
    """Return the command that installs packages into the environment of this process.

    The ``pip`` on the PATH may belong to another one, and environments that uv made have none.
    """
    if importlib.util.find_spec("pip") is None:
        return "uv pip install"
    found = shutil.which("pip")
    ours = found is not None and Path(found).parent == Path(sys.executable).parent
    return "pip install" if ours else f"{sys.executable} -m pip install"


def free_memory(cgroup: Path = CGROUP) -> tuple[int, int | None]:
    """Return the bytes of memory that are free, and the limit of the container; None if it has none."""
    import psutil

    left, limit = psutil.virtual_memory().available, first_line(cgroup / "memory.max")
    if not limit.isdigit():
        return left, None
    return min(left, int(limit) - int(first_line(cgroup / "memory.current") or 0)), int(limit)


def first_line(path: Path) -> str:
    """Return the first line of a file, or "" if it cannot be read."""
    try:
        return path.read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""
