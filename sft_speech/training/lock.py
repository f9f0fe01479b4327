"""A lock that keeps two runs out of the same output directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

FILE = ".run.json"  # {"host", "pid"} of the run, or {"finished": true} once it is finished


class OutputLock:
    """The lock of an output directory, held by the main process of a run; the kernel releases it when the process ends.

    It is a record lock (``fcntl``), not ``flock``: forked processes, such as the workers of a loader, do not inherit it
    and cannot keep it alive after the run.

    Args:
        folder: the output directory, which :meth:`hold` creates if it is missing.

    Attributes:
        found: what the previous run left in the lock file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / FILE
        self.descriptor = -1
        self.found: dict[str, Any] = {}
        self.new_folders: list[Path] = []  # created by hold(), the deepest first
        self.other_names: set[str] | None = None  # names in the folder before the lock file; None: the file existed

    def hold(self) -> None:
        """Take the lock, or take it again if the directory was removed in the meantime.

        Raises:
            UserError: another run holds it, or the directory cannot be written.
        """
        if self._is_held():
            return
        self.close()
        try:
            self.new_folders = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self.other_names = None if self.file.exists() else self._names()
            self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            raise UserError(f"--output_dir {self.folder}", why, "choose another one") from error
        self._lock()
        self.found = self._read()
        self._write(self.found | holder())

    def mark(self, finished: bool) -> None:
        """Record whether the run is finished."""
        self._write({"finished": True} if finished else holder())

    def close(self) -> None:
        """Release the lock; remove what :meth:`hold` created if the run wrote nothing else, as when it was refused."""
        if self.other_names is not None and self._is_held():  # and not that of a later run in a recreated folder
            with contextlib.suppress(OSError):
                if self._names() == self.other_names:
                    self.file.unlink()
                    for path in self.new_folders:
                        path.rmdir()  # fails on a folder that is not empty
        self._release()

    def _names(self) -> set[str]:
        return {name for name in os.listdir(self.folder) if name != FILE}

    def _is_held(self) -> bool:
        if self.descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.file))
        except OSError:
            return False

    def _lock(self) -> None:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            other = self._read()
            who = f"process {other['pid']} on {other['host']}" if "pid" in other else "another process"
            self._release()
            why = f"{who} is running in it"
            raise UserError(f"--output_dir {self.folder}", why, "choose another one, or wait until it ends") from None
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): make sure that no other run writes to it", self.folder, error.strerror
            )

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(os.pread(self.descriptor, 4096, 0) or "{}"))
        except (OSError, ValueError, TypeError):
            return {}

    def _write(self, content: dict[str, Any]) -> None:
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, json.dumps(content).encode(), 0)
        except OSError as error:  # a full disk may have room again by the time it matters
            logger.warning("%s cannot be written (%s)", self.file, error.strerror)

    def _release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def holder() -> dict[str, Any]:
    """Return what identifies this process to other runs."""
    return {"host": platform.node(), "pid": os.getpid()}
