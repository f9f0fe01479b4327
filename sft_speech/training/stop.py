"""End a run on a signal, so that it can be resumed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

from sft_speech.errors import RESUMABLE, Stopped

logger = logging.getLogger(__name__)

# Ctrl-C, what schedulers send before they take a machine back, and the usual choice for Slurm's --signal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop(TrainerCallback):
    """Ends the run on a signal: while it trains, after the current step and with a checkpoint; else at once.

    Evaluation ends at once, since a checkpoint is saved before it. All processes must save at the same step, or they
    would wait for each other forever: they agree after every step, since their launcher kills them 30 s after the
    signal.

    As a context manager it handles the signals, and raises :class:`Stopped` within.

    Args:
        processes: the processes of the run.

    Attributes:
        saved: step of the last checkpoint since this start; set by the trainer.
    """

    def __init__(self, processes: PartialState) -> None:
        self.processes = processes
        self.asked, self.waits, self.saved = False, False, 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: Any) -> None:
        again, self.asked = self.asked, True
        if not self.waits:
            self._end()
        if not again and self.processes.is_main_process:
            # Not print, which raises if the signal interrupted another print.
            os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C once more stops at once\n")
        if again and number == signal.SIGINT:  # a scheduler and a launcher may both send the others
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt

    def _end(self) -> NoReturn:
        for number in SIGNALS:  # only Ctrl-C and SIGKILL may interrupt the cleanup
            signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)
        raise Stopped

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Mark the block that trains; from its first step on, signals wait for the end of a step."""
        try:
            yield
        finally:
            self.waits = False
        if self.asked:
            self._end()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals end the run at once within the block, since nothing would be lost."""
        waits, self.waits = self.waits, False
        if self.asked:
            self._end()
        yield
        self.waits = waits

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.waits = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._agreed():
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._agreed():
            self._end()

    def leave(self) -> None:
        """Log how to resume. With several processes, exit here: others may be waiting for the next message."""
        if self.processes.is_main_process:
            saved = f"saved at step {self.saved}" if self.saved else "with nothing new to save"
            logger.warning("stopped, %s; resume with --resume_from_checkpoint auto", saved)
        if self.processes.num_processes > 1:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(RESUMABLE)

    def _agreed(self) -> bool:
        """Return whether any process got a signal; then all of them know."""
        if self.processes.num_processes > 1:
            asked = reduce(torch.tensor(float(self.asked), device=self.processes.device), "sum")
            self.asked = bool(asked > 0)
        return self.asked
