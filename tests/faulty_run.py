"""One run of the real command in a process of its own, to which something happens; made by the fixture `runs`.

Python tells its audit hooks of every file that it opens or renames: there a fault can be had at the very file. What is
done is real, a SIGKILL or a full file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from typing import Any

job: dict[str, Any] = globals()["job"]  # given by the fixture
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: Any) -> None:
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def fill(folder: str) -> None:
    """Takes the last byte of a file system."""
    with open(f"{folder}/filler", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def read_only(folder: str) -> None:
    path = folder.encode()
    call("mount", path, path, None, MS_BIND, None)
    call("mount", None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)


def twice(number: int) -> None:
    """As a scheduler and a launcher both send it."""
    for _ in range(2):
        os.kill(os.getpid(), number)


FAULTS = {
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "pause": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "term twice": lambda _: twice(signal.SIGTERM),
    "usr1 twice": lambda _: twice(signal.SIGUSR1),
    "remove": shutil.rmtree,
    "fill": fill,
    "make room": lambda folder: os.unlink(f"{folder}/filler"),
    "read-only": read_only,
}


def hook(event: str, args: tuple[Any, ...]) -> None:
    """The fault comes when ``event`` happens to a path that ends in ``path``."""
    if not job["faults"] or event not in ("open", "os.rename", "shutil.rmtree", "step"):
        return
    at, path, fault, where = job["faults"][0]
    if event == at and isinstance(args[0], str | os.PathLike) and fnmatch.fnmatch(os.fspath(args[0]), f"*{path}"):
        job["faults"].pop(0)
        FAULTS[fault](where)


def tell_steps() -> None:
    """The hook hears of each step after so many others: ("step", "after 6")."""
    from transformers import Trainer

    train = Trainer.training_step

    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        hook("step", (f"after {self.state.global_step}",))
        return train(self, *args, **kwargs)

    Trainer.training_step = told


def slow_reading(seconds: float) -> None:
    """Has evaluation wait for its disk."""
    from sft_speech.tasks.asr.ctc import recognize

    read = recognize.read

    def late(*args: Any) -> Any:
        time.sleep(seconds)
        return read(*args)

    recognize.read = late


def run() -> int:
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as ever; it is inherited otherwise
    if job["inside"]:  # a namespace that the test has made
        for kind in ("user", "mnt"):
            call("setns", os.open(f"/proc/{job['inside']}/ns/{kind}", os.O_RDONLY), 0)
    os.environ.update(job["environment"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job["cache"]:
        import datasets

        datasets.config.HF_DATASETS_CACHE = job["cache"]
    if job["slow_evaluation"]:
        slow_reading(job["slow_evaluation"])
    if any(event == "step" for event, *_ in job["faults"]):
        tell_steps()
    for module in job["imports"]:
        importlib.import_module(module)
    from sft_speech.cli import main

    sys.addaudithook(hook)
    return main(job["command"])


sys.exit(run())
