"""Measurements of a process since the last line of the log."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
import time
from pathlib import Path

import torch

FILE = "unlogged_{}.pt"  # in a checkpoint, one per process
CLEAR = Path("/proc/self/clear_refs")


@dataclasses.dataclass
class LogInterval:
    """Sums over the optimizer steps of one process, from which the next line of the log is made.

    Args:
        steps: number of optimizer steps.
        loss: scalar on the device, the sum of their losses.
        sums: figures of the criterion, on the device.
        utterances: how many were requested from the loader.
        skipped: how many of those could not be read.
        began: when the first step began, in seconds of the monotonic clock.
        cpu_began: the same, in seconds of this process on all processors.
    """

    steps: int = 0
    loss: torch.Tensor | float = 0.0
    sums: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    utterances: int = 0
    skipped: int = 0
    began: float = 0.0
    cpu_began: float = 0.0

    def begin_step(self) -> None:
        if self.steps == 0:
            self.began, self.cpu_began = time.monotonic(), time.process_time()
        self.steps += 1

    def add(self, figures: dict[str, torch.Tensor]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def cpu_seconds(self) -> float:
        return time.process_time() - self.cpu_began

    def leave_out(self, seconds: float, cpu_seconds: float) -> None:
        """Leave out the time of something that is no training."""
        self.began += seconds
        self.cpu_began += cpu_seconds

    def save(self, checkpoint: Path, rank: int, world: int) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"began": self.seconds(), "cpu_began": self.cpu_seconds(), "world": world}
        torch.save(values, checkpoint / FILE.format(rank))

    @classmethod
    def load(cls, checkpoint: Path, rank: int, world: int, device: torch.device) -> LogInterval:
        """Return the saved interval; an empty one if there is none or the number of processes has changed."""
        file = checkpoint / FILE.format(rank)
        if not file.is_file():
            return cls()
        values = torch.load(file, map_location=device, weights_only=True)
        if values.pop("world") != world:
            return cls()
        now = time.process_time() - values.get("cpu_began", 0.0)  # checkpoints of older versions lack it
        return cls(**values | {"began": time.monotonic() - values["began"], "cpu_began": now})


def reset_peak() -> None:
    """Forget the peak memory so far: that of an earlier run in this process, or of batches that did not fit."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux only, see proc(5)
        CLEAR.write_text("5")


def peak_bytes() -> int:
    """Return the peak memory since :func:`reset_peak`: of the GPU, or of the resident set without one.

    Where the latter cannot be reset, it is that of the process.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
