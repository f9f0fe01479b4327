"""What was found, and a process of its own for what may take its process down."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Args:
        level: ``ok``; ``note``: something is slower, or missing, than it could be; ``fault``: a run would fail.
        name: of the thing.
        says: how it is.
        do: what to do about it, where it is not ok.
    """

    level: Literal["ok", "note", "fault"]
    name: str
    says: str
    do: str = ""

    def line(self) -> str:
        said = f"{self.level:5}  {self.name}: {self.says}"
        return f"{said}\n       -> {self.do}" if self.do else said


class Crashed(Exception):
    """The process ended without a word."""


def apart(work: Callable[[], Any], seconds: float = 120) -> Any:
    """What ``work`` returns or raises in a fresh process: a library built for another machine may abort its own.

    Raises:
        Crashed: it did.
        TimeoutError: it takes too long.
    """
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        return pool.submit(work).result(timeout=seconds)
    except BrokenProcessPool as error:
        raise Crashed("its process ended without a word, as by a crash of a library") from error
    except TimeoutError:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown()


def first_line(error: BaseException) -> str:
    """What an error says; its name where it says nothing, as those of time-outs do."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
