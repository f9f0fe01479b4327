"""One run of the real command in its own process, with faults; started by `FaultyRun` in end_to_end/conftest.py.

Audit hooks of Python see every file that is opened or renamed, so a fault can be provoked at any file. The faults are
real: a SIGKILL, a full file system.
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

job: dict[str, Any] = globals()["job"]  # set by FaultyRun
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: Any) -> None:
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def fill(folder: str) -> None:
    """Fill a file system to the last byte."""
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
    """Send a signal twice, as a scheduler and a launcher do."""
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
    """Provoke the next fault when its event happens to a path that ends in its path."""
    if not job["faults"] or event not in ("open", "os.rename", "shutil.rmtree", "step"):
        return
    at, path, fault, where = job["faults"][0]
    if event == at and isinstance(args[0], str | os.PathLike) and fnmatch.fnmatch(os.fspath(args[0]), f"*{path}"):
        job["faults"].pop(0)
        FAULTS[fault](where)


def watch_steps() -> None:
    """Call the hook before each training step, with ("step", "after 6") for step 7."""
    from transformers import Trainer

    train = Trainer.training_step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        hook("step", (f"after {self.state.global_step}",))
        return train(self, *args, **kwargs)

    Trainer.training_step = watched


def slow_reading(seconds: float) -> None:
    """Delay the reading of each utterance in the evaluations after step 1."""
    from transformers import Trainer

    from sft_speech.inference import clips

    read, train = clips.read, Trainer.training_step

    def delayed(*args: Any) -> Any:
        time.sleep(seconds)
        return read(*args)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        clips.read = delayed
        return train(self, *args, **kwargs)

    Trainer.training_step = watched


def run() -> int:
    multiprocessing.set_start_method("fork", force=True)  # for loader workers; otherwise they would inherit forkserver
    if job["inside"]:  # the namespaces of the test's disk
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
        watch_steps()
    for module in job["imports"]:
        importlib.import_module(module)
    from sft_speech.cli import main

    sys.addaudithook(hook)
    return main(job["command"])


sys.exit(run())
