"""A finding, and a separate process for code that may crash."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, TypeVar

from sft_speech.errors import first_line

Result = TypeVar("Result")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        level: ``ok``; ``note``: something is missing or slow; ``fault``: a run would fail.
        name: what was checked.
        says: the result.
        do: the remedy, unless it is ok.
    """

    level: Literal["ok", "note", "fault"]
    name: str
    says: str
    do: str = ""

    def unless(self, fine: bool, says: str) -> Finding:
        """Return this finding, or an ok one with the text ``says`` if all is ``fine``."""
        return Finding("ok", self.name, says) if fine else self

    def line(self) -> str:
        state = f"{self.level:5}  {self.name}: {self.says}"
        return f"{state}\n       -> {self.do}" if self.do else state


class Crashed(Exception):
    """A process ended without an exception."""


def apart(work: Callable[[], Result], seconds: float = 120) -> Result:
    """Run ``work`` in a new process and return its result: a library built for another machine may abort.

    Raises:
        Crashed: the process died.
        TimeoutError: ``work`` took too long.
        Exception: any exception of ``work``.
    """
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        return pool.submit(work).result(timeout=seconds)
    except BrokenProcessPool as error:
        raise Crashed("its process died without a message, as when a library crashes") from error
    except TimeoutError:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown()


def imported(work: Callable[[], object], bad: Finding, good: str) -> Iterator[Finding]:
    """Try to import an optional package in a new process; yield nothing if it is not installed.

    Args:
        work: imports the package.
        bad: the finding if this fails, named like the package; ``{version}`` and ``{error}`` are replaced.
        good: the text after the version if it works.
    """
    try:
        found = version(bad.name)
        apart(work)
    except PackageNotFoundError:
        return
    except Exception as error:  # ImportError, OSError, RuntimeError, a crash
        yield replace(bad, says=bad.says.format(version=found, error=first_line(error)))
    else:
        yield Finding("ok", bad.name, f"{found}{good}")
