"""Files that are there whole or not at all, whenever the process or the machine ends."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from sft_speech.errors import UserError


def check_output(flag: str, file: str) -> None:
    """See that a file can be made, before hours are spent on what goes into it.

    Args:
        flag: that it was given by.

    Raises:
        UserError: it is a folder, or lies in none.
    """
    path = Path(file).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{flag} {file}", "it is to be a file in a folder that exists", "name another one")


def write_whole(path: Path, text: str) -> None:
    """Writes a text in place of what the file held before; that stays until the new one is on the disk.

    Names of files that are no UTF-8 are written with backslashes.
    """
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk: they then outlive the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def honour_umask(folder: Path) -> None:
    """Give weights the mode of any new file in their folder; safetensors makes them readable for their owner only."""
    probe = folder / ".mode"
    probe.unlink(missing_ok=True)
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(PermissionError):  # some network disks have no modes
            file.chmod(mode)
