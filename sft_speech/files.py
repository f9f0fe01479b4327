"""Files that are either complete or absent, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sft_speech.errors import UserError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the file begins that Git LFS leaves in place of another
_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})")


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is a Git LFS pointer, left in place of a file that was not downloaded."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def expanded(given: str, name: str = "path") -> str:
    """Return a path with ``~`` replaced by the home directory.

    Variables are replaced by the shell only: a YAML may come from somebody else, and the values of variables, which may
    be secrets, would be written into files.

    Args:
        name: the option that named it, for errors.

    Raises:
        UserError: it has a variable or another user's home that would become the name of a folder.
    """
    path = os.path.expanduser(given)
    variable = _VARIABLE.search(path)
    if (variable or path.startswith("~")) and not os.path.exists(path):
        what = f"{variable[0]} is not replaced here" if variable else "there is no such home directory"
        raise UserError(f"{name}: {given}", what, f'write the whole path, or let the shell replace it: --{name} "..."')
    return path


def check_output(flag: str, file: str) -> None:
    """Check that a file can be created, before hours are spent on its content.

    Args:
        flag: the option that named it.

    Raises:
        UserError: the path is a folder, or its parent folder does not exist.
    """
    path = Path(file).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{flag} {file}", "it must be a file in a folder that exists", "choose another path")


@contextlib.contextmanager
def open_whole(path: Path, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` once the block ends without an error.

    Until then ``path`` keeps its old content. When the block ends, the new content is on the disk (fsync). The
    temporary file has a unique name, so any number of processes and machines may write the same path: the last
    one wins. It is removed on an error; a killed process leaves it behind, with the suffix ``.part``.

    Args:
        path: a file in an existing folder.
        scratch: folder on the same file system for the temporary file; by default the folder of ``path``.
    """
    part = (scratch or path.parent) / f"{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # a full disk, for example
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder under a temporary name, yield it, and name it ``path`` once the block ends without an error.

    Then all its files are on the disk (fsync). On an error it is removed; a killed process leaves it behind, with the
    suffix ``.part``.

    Raises:
        UserError: ``path`` exists.
    """
    taken = UserError(str(path), "it already exists", "remove it, or choose another name")
    if path.exists():
        raise taken
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    try:
        yield part
        for file in [*part.rglob("*"), part]:
            sync(file)
        if path.exists():  # another process was faster
            raise taken
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text as :func:`open_whole` does, in UTF-8; parts of file names that are not UTF-8 become backslashes."""
    with open_whole(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"it cannot be read ({error})", "restore it, or remove it") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def honour_umask(folder: Path) -> None:
    """Give weights the mode of any new file in their folder; safetensors makes them readable only by their owner."""
    probe = folder / ".mode"
    probe.unlink(missing_ok=True)
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(PermissionError):  # some network disks do not support modes
            file.chmod(mode)
