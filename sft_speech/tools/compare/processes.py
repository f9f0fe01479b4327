"""Fine-tuning runs as processes of their own: one after another, or one per GPU."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from sft_speech.errors import RESUMABLE, Stopped, UserError, printable
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.settings import save_config
from sft_speech.redact import redact
from sft_speech.tasks import spec_of

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # as in training/stop.py, which imports torch
POLL_SECONDS = 0.1
TAIL_BYTES = 1 << 16  # of a log, searched for the error
PR_SET_PDEATHSIG = 1  # of prctl(2)
_ERROR = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b")


@dataclass(frozen=True)
class Job:
    """A run to be done.

    Args:
        name: as it is shown.
        task: name of its task.
        config: its options; its ``output_dir`` may have the beginning of the same run.
        log: file that its output is added to.
    """

    name: str
    task: str
    config: FinetuneConfig
    log: Path

    def command(self) -> list[str]:
        """Write the options into a YAML beside the log. Return the command line of the run, which resumes."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        by_hand = [one.name for one in dataclasses.fields(self.config) if one.metadata["by_hand"]]
        allowed = [name for name in by_hand if getattr(self.config, name)]
        file = self.log.with_suffix(".yaml")
        off: dict[str, Any] = dict.fromkeys(allowed, False)
        save_config(dataclasses.replace(self.config, **off), file)
        flags = [part for name in allowed for part in (f"--{name}", "true")]
        verb = [sys.executable, "-m", "sft_speech", spec_of(self.task).verb]
        return [*verb, "--config", str(file), "--resume_from_checkpoint", "auto", *flags]


@dataclass(frozen=True)
class Ending:
    """The end of a run.

    Args:
        code: its exit code; minus the number of the signal that killed it.
        why: the line of its error; "" if it finished.
        seconds: duration of its process.
    """

    code: int
    why: str
    seconds: float


class Command(Protocol):
    """What is done in a process, such as a :class:`Job`: its name, its log, its command line."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def command(self) -> list[str]: ...


C = TypeVar("C", bound=Command)


class Runner(Protocol):
    """Does runs; calls ``done`` after each. Raises :class:`Stopped` if a signal ended them."""

    def __call__(self, jobs: Sequence[C], done: Callable[[C, Ending], None]) -> None: ...


@dataclass
class _Running:
    job: Any  # a Command
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float
    asked: bool = False  # to stop


class Processes:
    """Runs jobs as processes, in their order.

    On a signal they are asked to stop, which saves checkpoints; if this process is killed, the kernel kills them too
    (on Linux), so that they do not disturb the continued comparison.

    Args:
        gpus: a process at a time for each, with the values of CUDA_VISIBLE_DEVICES; [None]: one process on the devices
            of this one.
        say: called with a line about each start.
    """

    def __init__(self, gpus: Sequence[str | None], say: Callable[[str], None]) -> None:
        self.gpus, self.say = list(gpus), say
        self.asked = 0
        self.running: dict[str | None, _Running] = {}

    def __call__(self, jobs: Sequence[C], done: Callable[[C, Ending], None]) -> None:
        waiting, stopped = deque(jobs), False
        with self._signals():
            try:
                while (waiting and not self.asked) or self.running:
                    for gpu in self.gpus:
                        if gpu not in self.running and waiting and not self.asked:
                            self.running[gpu] = self._start(waiting.popleft(), gpu)
                    for gpu, one in list(self.running.items()):
                        if self.asked and not one.asked:
                            one.process.send_signal(signal.SIGTERM)
                            one.asked = True
                        if (code := one.process.poll()) is None:
                            continue
                        del self.running[gpu]
                        one.log.close()
                        if code == RESUMABLE or (self.asked and code != 0):
                            stopped = True
                        else:
                            done(one.job, Ending(code, why_ended(code, one.job.log), time.monotonic() - one.began))
                    time.sleep(POLL_SECONDS)
            finally:
                for one in self.running.values():  # after an error, or Ctrl-C twice
                    one.process.kill()
                    one.process.wait()
                    one.log.close()
                self.running.clear()
        if stopped or self.asked:
            raise Stopped

    def _start(self, job: Command, gpu: str | None) -> _Running:
        where = "" if gpu is None else f" on GPU {gpu}"
        self.say(f"{job.name}: begins{where}; its output goes to {job.log}")
        command = job.command()
        log = open(job.log, "ab")  # noqa: SIM115 - closed when the run ends
        environment = dict(os.environ) if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches it only through this process, once
            preexec_fn=_die_with(os.getpid()),
        )
        return _Running(job, process, log, time.monotonic())

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _frame: Any) -> None:
        self.asked += 1
        if self.asked > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked == 1:
            # Not print, which raises if the signal interrupted another print.
            os.write(2, b"\nstopping the runs, with checkpoints; Ctrl-C once more stops at once\n")


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return a function that makes a new process end with its parent; None where there is no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def begin() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), signal.SIGKILL)

    return begin


def why_ended(code: int, log: Path) -> str:
    """Return the line of the error that ended a run; "" if it finished."""
    if code == 0:
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    hints = [number for number, line in enumerate(lines) if line.startswith("-> ")]
    if code == 2 and hints and hints[-1] > 0:
        return _line(lines[hints[-1] - 1])
    errors = [line for line in lines if _ERROR.match(line)]
    return _line((errors or lines or [f"exit code {code}"])[-1])


def _line(text: str) -> str:
    return printable(redact(text))[:500].rstrip(".")


def visible_gpus(given: str | None) -> list[str | None]:
    """Return the GPUs to use, as values of CUDA_VISIBLE_DEVICES; [None] on a machine without any.

    Args:
        given: as in ``--gpus 0,1``; None: all that are visible.

    Raises:
        UserError: there is no such GPU.
    """
    import torch

    if given is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        count = torch.cuda.device_count()
        return list(visible.split(",")[:count] if visible else map(str, range(count))) or [None]
    names: list[str | None] = [name.strip() for name in given.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--gpus {given}", "it must be different numbers", "write --gpus 0,1")
    count = torch.cuda.device_count()
    wrong = [name for name in names if name is not None and name.isdigit() and int(name) >= count]
    if not count or wrong:
        why = f"this machine shows {count} GPUs" if count else "this machine shows no GPU"
        raise UserError(f"--gpus {given}", why, "leave --gpus out to use all")
    return names
