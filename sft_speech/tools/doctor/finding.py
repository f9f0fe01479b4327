"""A finding, and a separate process for code that may crash."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        level: ``ok``; ``note``: something is missing or slower than it could be; ``fault``: a run would fail.
        name: what was checked.
        says: its state.
        do: what to do about it, unless it is ok.
    """

    level: Literal["ok", "note", "fault"]
    name: str
    says: str
    do: str = ""

    def line(self) -> str:
        state = f"{self.level:5}  {self.name}: {self.says}"
        return f"{state}\n       -> {self.do}" if self.do else state


class Crashed(Exception):
    """A process ended without an exception."""


def apart(work: Callable[[], Result], seconds: float = 120) -> Result:
    """Return what ``work`` returns in a new process: a library built for another machine may abort its process.

    Raises:
        Crashed: the process ended.
        TimeoutError: ``work`` took too long.
        Exception: of ``work``.
    """
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        return pool.submit(work).result(timeout=seconds)
    except BrokenProcessPool as error:
        raise Crashed("its process ended without a message, as in the crash of a library") from error
    except TimeoutError:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def imported(name: str, work: Callable[[], object], bad: Finding, good: str) -> Finding | None:
    """Import an optional package in a new process; return None if it is not installed, which the extras say.

    Args:
        work: imports it.
        bad: the finding if that fails; ``{version}`` and ``{error}`` in it are replaced.
        good: state if it works.
    """
    try:
        found = version(name)
    except PackageNotFoundError:
        return None
    try:
        apart(work)
    except Exception as error:  # ImportError, OSError, RuntimeError, a crash
        return Finding(bad.level, name, bad.says.format(version=found, error=first_line(error)), bad.do)
    return Finding("ok", name, f"{found}{good}")
