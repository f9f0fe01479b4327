"""One run at a time in an output directory."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

FILE = ".run.json"  # {"host", "pid"} of the run; once it is done {"finished": true}


class OutputLock:
    """Held by the main process of a run, and let go by the kernel when that ends in whatever way.

    It is a record lock (``fcntl``), not ``flock``: processes that are forked, as the workers of a loader are, don't
    inherit it and can't outlive the run with it.

    Args:
        folder: the output directory, which is made where it isn't there.

    Attributes:
        found: what the run before left in the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / FILE
        self.descriptor = -1
        self.found: dict[str, Any] = {}

    def hold(self) -> None:
        """Takes the lock, and again where the directory was removed meanwhile.

        Raises:
            UserError: another run holds it, or the directory can't be written.
        """
        if self._is_held():
            return
        self.close()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            why = f"it can't be written ({error.strerror})"
            raise UserError(f"--output_dir {self.folder}", why, "take another one") from error
        self._lock()
        self.found = self._read()
        self._write(self.found | holder())

    def mark(self, finished: bool) -> None:
        """Says what has become of the run."""
        self._write({"finished": True} if finished else holder())

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
            self.close()
            why = f"{who} is running in it"
            raise UserError(f"--output_dir {self.folder}", why, "take another one, or wait for its end") from None
        except OSError as error:
            logger.warning(
                "%s can't be locked (%s): see to it that no two runs write to it", self.folder, error.strerror
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
        except OSError as error:  # a full disk need not be in the way yet
            logger.warning("%s can't be written (%s)", self.file, error.strerror)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def holder() -> dict[str, Any]:
    """This process, as another one would look for it."""
    return {"host": platform.node(), "pid": os.getpid()}
