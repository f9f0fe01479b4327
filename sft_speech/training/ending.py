"""The processes of a run, and how they end when one fails: all of them, soon, and with a single error message."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed
from accelerate import PartialState

from sft_speech.errors import UserError
from sft_speech.training.arguments import PATIENCE_HOURS
from sft_speech.training.start import on_cpu

logger = logging.getLogger(__name__)

SOON = 20  # seconds after which a failed process is killed, whatever its libraries are waiting for
TIME_TO_REPORT = 1.0  # seconds for the first failed process to report: once any process exits, the launcher kills all
LOST = ("connection closed by peer", "connection reset by peer", "gloo", "socket", "nccl")


@contextmanager
def processes_of_run() -> Iterator[PartialState]:
    """Yield the processes of a run, of which only the main one logs more than warnings; afterwards wait for all."""
    processes = PartialState(cpu=on_cpu(), timeout=timedelta(hours=PATIENCE_HOURS))
    log = logging.getLogger("sft_speech")
    level = log.level
    if not processes.is_main_process:
        log.setLevel(logging.WARNING)
    try:
        with first_error_only(processes):
            yield processes
    finally:
        log.setLevel(level)
    processes.wait_for_everyone()
    atexit.unregister(leave_group)
    atexit.register(leave_group)


def leave_group() -> None:
    """Leave the group of processes, as the interpreter exits: until then the next run needs it.

    If gloo's threads are still alive after that, they sometimes abort. The wrapped model, which refers to the group, is
    freed before.
    """
    gc.collect()
    PartialState().destroy_process_group()


@contextmanager
def first_error_only(processes: PartialState) -> Iterator[None]:
    """Report only the first error among several processes; the other processes exit silently, with their exit code.

    Their errors are the same as the first one or follow from it: a process that waits for a dead one fails too.
    """
    try:
        yield
    except Exception as error:
        if processes.num_processes == 1:
            raise
        atexit.unregister(leave_group)
        # The destructors of process groups may wait indefinitely for the other processes.
        faulthandler.dump_traceback_later(SOON, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
        if not is_first():
            time.sleep(TIME_TO_REPORT)
            raise SystemExit(2 if isinstance(error, UserError) else 1) from None
        if is_loss(error):
            logger.error(
                "process %d lost another one (%s): that was killed, perhaps because memory ran out, or the network "
                "failed; the launcher's messages below say which",
                *(processes.process_index, gist(error)),
            )
            raise SystemExit(1) from None
        raise


def is_first() -> bool:
    """Return whether no other process of this run has failed yet. Call it once: it adds to a counter in the launcher's
    store.
    """
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        distributed: Any = torch.distributed
        store = distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"sft_speech/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # two messages are better than none
        return True


def is_loss(error: Exception) -> bool:
    """Return whether an error only means that another process, or the connection to it, was lost."""
    message = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.distributed.DistError) or any(word in message for word in LOST)
    )


def gist(error: Exception) -> str:
    """Return gloo's message without its source location and advice."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
