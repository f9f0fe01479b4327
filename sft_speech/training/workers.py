"""Signals and failures of the worker processes that decode audio."""

from __future__ import annotations

import contextlib
import re
import signal
import traceback

from sft_speech.errors import UserError
from sft_speech.training.stop import SIGNALS

GONE = re.compile(r"DataLoader worker \(pid")
SIGNAL = re.compile(r"is killed by signal: ([^.]+)")


def leave_signals_to_the_trainer(_worker: int) -> None:
    """Ignore signals: Ctrl-C goes to the whole process group, and must not end the loader before the checkpoint."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def let_go(error: BaseException) -> None:
    """End the loader that the traceback of a failed run still refers to.

    Its workers ignore signals: they would keep this process alive, and all processes that wait for it.
    """
    for _ in range(2):  # torch may raise its error about a dead worker again, anywhere in Python
        with contextlib.suppress(RuntimeError):
            traceback.clear_frames(error.__traceback__)


def worker_error(error: BaseException, workers: int) -> UserError | None:
    """Explain an error of torch about a dead worker, which torch may raise anywhere; None for other errors.

    Args:
        workers: number of workers per process.
    """
    if not (GONE.search(str(error)) or is_cut_off(error)):
        return None
    # The signal is in this error, or in the one that caused it.
    found = SIGNAL.search(f"{error} {error.__cause__} {error.__context__}")
    if found and found[1] == "Bus error":
        why = "it ended with a bus error: shared memory is full"
        do = "enlarge /dev/shm (docker run --shm-size 8g), or lower --dataloader_num_workers or --max_batch_seconds"
    else:
        how = f"signal {found[1]!r}" if found else "no signal is known"
        why = f"it was ended from outside ({how}), as the system does when memory is full"
        do = "lower --dataloader_num_workers or --max_batch_seconds"
    given = f"one of the {workers} processes that decode audio"
    return UserError(given, why, f"{do}; then resume with --resume_from_checkpoint")


def is_cut_off(error: BaseException) -> bool:
    """Return whether a worker ended while it handed over a tensor; torch has no specific error for that."""
    if not isinstance(error, ConnectionError | EOFError):
        return False
    return any(
        frame.filename.endswith("multiprocessing/reductions.py") for frame in traceback.extract_tb(error.__traceback__)
    )
