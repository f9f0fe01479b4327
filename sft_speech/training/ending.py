"""How processes that train together end when one fails: all of them, soon, with its error and no other."""

from __future__ import annotations

import faulthandler
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

logger = logging.getLogger(__name__)

SOON = 20  # seconds from its error to the end of a process, whatever its libraries still wait for
TIME_TO_TELL = 1.0  # seconds: the launcher ends all processes as soon as one has ended
LOST = ("connection closed by peer", "connection reset by peer", "gloo", "socket", "nccl")


@contextmanager
def told_once(processes: PartialState) -> Iterator[None]:
    """Let the first error among several processes through; the other processes end silently, with their exit code.

    Their errors follow from the first one, as a process that waits for one that is gone fails too, or are the same.
    """
    try:
        yield
    except Exception as error:
        if processes.num_processes == 1:
            raise
        # The destructors of process groups may wait for the others, for as long as those may take.
        faulthandler.dump_traceback_later(SOON, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
        if not is_first():
            time.sleep(TIME_TO_TELL)
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
    """Return whether no other process of this run has failed yet; call it once. The launcher's store counts them."""
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        distributed: Any = torch.distributed
        store = distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"sft_speech/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # better two messages than none
        return True


def is_loss(error: Exception) -> bool:
    """Return whether an error says only that another process, or the connection to it, is gone."""
    message = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.distributed.DistError) or any(word in message for word in LOST)
    )


def gist(error: Exception) -> str:
    """Return gloo's message without its place in the source and its advice."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
