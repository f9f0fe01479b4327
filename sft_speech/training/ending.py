"""How processes that train together end when one of them fails: soon, all of them, with its error and no other."""

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

from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

SOON = 20  # seconds from its error to the end of a process, whatever its libraries still wait for
TIME_TO_TELL = 1.0  # seconds: the launcher ends all processes as soon as one has ended
LOST = ("connection closed by peer", "connection reset by peer", "gloo", "socket", "nccl")


@contextmanager
def told_once(processes: Any) -> Iterator[None]:
    """Of the errors of several processes the first goes on to be told; the others are silent, with their exit code.

    Those follow from the first one: who waits for a process that is gone fails as well, and some errors all of them
    meet at once.

    Args:
        processes: the :class:`accelerate.PartialState`.
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
                "process %d lost another one (%s): that was killed, perhaps for want of memory, or the network failed; "
                "what the launcher says below tells which",
                *(processes.process_index, gist(error)),
            )
            raise SystemExit(1) from None
        raise


def is_first() -> bool:
    """Whether no other process of this run has failed before; asked once. The launcher keeps count for all."""
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        distributed: Any = torch.distributed
        store = distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"sft_speech/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # better told twice than not at all
        return True


def is_loss(error: Exception) -> bool:
    """Whether an error says no more than that another process, or the way to it, is gone."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.distributed.DistError) or any(word in said for word in LOST)
    )


def gist(error: Exception) -> str:
    """What gloo has to say, but for the place in its source and its advice."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
