"""Python programs in forks of a process that has imported what a run imports (the forkserver of `multiprocessing`).

A new interpreter needs 7 s of CPU time for these imports, a tiny run 1 s. Tests of a launcher's own errors and signals
and of the Hub start new interpreters.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "torch.distributed.run",
        "accelerate.commands.launch",
        "jiwer",
        "langcodes",
        "matplotlib.figure",
        "num2words",
        "sft_speech.corpora.layouts",
        "sft_speech.tasks.asr.ctc.task",
        "sft_speech.training.run",
        "transformers.models.speecht5.modeling_speecht5",
        "transformers.models.wav2vec2.modeling_wav2vec2",
        "transformers.models.whisper.modeling_whisper",
        "tests.warmed",  # found if pytest runs in the root of the repository
    ]
)


class Inherited:
    """A file descriptor that a process in a fork gets."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.number)

    def __setstate__(self, duplicate: Any) -> None:
        self.number = duplicate.detach()


class Program:
    """A Python program in a fork, with the methods of `subprocess.Popen` that tests and torch's launcher use.

    Its parent is the forkserver, not this process.

    Args:
        line: the interpreter and its arguments: a script, -c and code, or -m and a module.
        environment: its variables.
        output: descriptors of its stdout and stderr.
    """

    def __init__(self, line: Sequence[str], environment: dict[str, str], output: tuple[int, int] = (1, 2)) -> None:
        ready, there = FORKED.Pipe(duplex=False)
        files = [Inherited(number) for number in output]
        self.process = FORKED.Process(target=become, args=(list(line), environment, files, there))
        self.process.start()
        there.close()
        ready.recv()  # from now on it can be killed together with its children
        assert self.process.pid
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def become(line: list[str], environment: dict[str, str], output: list[Inherited], ready: Connection) -> None:
    """Turn this process into a program; the processes that torch's launcher starts in it are forked, too."""
    import datasets
    import numpy as np
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    gc.freeze()  # otherwise collections would visit, and so copy, all that was imported
    os.setsid()
    ready.send(None)
    ready.close()
    for number, file in enumerate(output, 1):
        os.dup2(file.number, number)
        os.close(file.number)
    os.environ.clear()
    os.environ.update(environment)
    datasets.config.HF_DATASETS_CACHE = Path(environment["HF_DATASETS_CACHE"])
    np.random.seed()  # differently in every process, as its import does
    multiprocessing.set_start_method("fork", force=True)  # for loader workers; otherwise they would inherit forkserver
    # Its own children are forks of the same server. It would start a second one, which imports everything again.
    server: Any = forkserver._forkserver
    server.ensure_running = lambda: None
    handler: Any = subprocess_handler.SubprocessHandler
    handler._popen = lambda _, args, variables: Program(args, variables)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ModuleNotFoundError):  # as an interpreter does at its start
        importlib.import_module("sitecustomize")
    sys.stdout.reconfigure(write_through=True)  # a killed process keeps nothing back
    try:
        execute([word for word in line[1:] if word != "-u"])
    except Exception:
        sys.excepthook(*sys.exc_info())  # which names the rank
        sys.exit(1)


def execute(words: list[str]) -> None:
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        if not hasattr(sys.modules.get(words[1]), "__path__"):
            sys.modules.pop(words[1], None)  # runpy warns of an imported module
        runpy.run_module(words[1], run_name="__main__")  # forks would repeat it if it were in sys.modules
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
