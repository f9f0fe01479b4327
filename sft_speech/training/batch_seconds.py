"""The largest ``max_batch_seconds`` that fits into memory, measured before the batches of a run are planned."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from accelerate.utils.memory import clear_device_cache
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from sft_speech.errors import UserError
from sft_speech.machine import free_memory
from sft_speech.options.config import FinetuneConfig
from sft_speech.training.checkpoints import STATE
from sft_speech.training.rows import Rows
from sft_speech.training.start import uses_bf16
from sft_speech.training.task import Task
from sft_speech.training.trainer import is_memory_error
from sft_speech.training.trial import copies_of_weights, trial_step

logger = logging.getLogger(__name__)

AUTO = "auto"
FREE = (
    0.08  # share of the memory that stays free: memory is fragmented later, and other batches have longer transcripts
)
CPU_SECONDS = 100.0  # on a CPU, larger batches are not faster
CLOSE = 0.03  # relative step that is not worth another measurement
GROWTH = 4  # the largest step; predictions of memory far from what was measured are wrong
MEASUREMENTS = 16
# Texts in errors of kernels that index with 32 bits, or take no such batch (pytorch/pytorch#80020, #22496, #2917).
TOO_LARGE = ("canUse32BitIndexMath", "CUDNN_STATUS_NOT_SUPPORTED", "too large")
INTERVAL = 0.002  # seconds between two looks at the memory of this process

Measure = Callable[[float], int | None]


def largest_that_fits(measure: Measure, unit: float, most: float, room: int) -> float | None:
    """Return the largest batch that fits, within about :data:`CLOSE`; it, or a larger one, was measured.

    The next size is predicted by a line through the last two that fitted, and halves the distance to the smallest one
    that did not fit. Memory may grow faster than that, and in steps.

    Args:
        measure: returns the bytes that a batch of so many seconds takes, or None if memory runs out.
        unit: seconds of the longest utterance; multiples of it are measured.
        most: seconds that are not exceeded, except by a single utterance.
        room: bytes that may be used.

    Returns:
        Seconds; None if a single utterance does not fit.
    """
    fits, before, fails = (0, 0), (0, 0), math.ceil(most / unit) + 1
    limit, size = fails, 1
    for _ in range(MEASUREMENTS):
        used = measure(size * unit)
        if used is None or used > room:
            fails = size
        else:
            before, fits = fits, (size, used)
        if fails == 1:
            return None
        size = _next_size(before, fits, room)
        if fails < limit:
            size = min(size, (fits[0] + fails) // 2)
        size = min(size, fails - 1)
        if size - fits[0] < max(1, CLOSE * fits[0]):
            break
    return min(fits[0] * unit, max(unit, most))


def _next_size(before: tuple[int, int], fits: tuple[int, int], room: int) -> int:
    """Return the predicted number of utterances that fill the memory, at most :data:`GROWTH` times as many as fit."""
    if before[0] == 0:
        return 2
    slope = (fits[1] - before[1]) / (fits[0] - before[0])
    left = (room - fits[1]) / slope if slope > 0 else float("inf")
    return int(min(fits[0] + left, GROWTH * fits[0]))


def settle(
    config: FinetuneConfig, task: Task[Any], rows: Rows, processes: PartialState, checkpoint: Path | None = None
) -> None:
    """Replace ``max_batch_seconds: auto`` by a number, the same on all processes; leave the model as it is.

    Args:
        checkpoint: the one that the run resumes from; its number is kept.

    Raises:
        UserError: a single utterance does not fit, the model is sharded, or the device is of another kind.
    """
    if config.max_batch_seconds != AUTO:
        return
    found = None if checkpoint is None else read(checkpoint)
    if found is not None:
        config.started_with_batches_of(found)
        logger.info("max_batch_seconds auto: %g s, as measured when the run began", found)
        return
    given = f"max_batch_seconds {AUTO}"
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise UserError(given, "a sharded model can't be measured before it is sharded", "give a number")
    if processes.device.type not in ("cpu", "cuda"):
        raise UserError(given, f"the memory of a device {processes.device} can't be measured", "give a number")
    trial = Trial(config, task, rows, processes)
    trial.measure(trial.unit)  # before the memory, of which the libraries that are loaded now take some
    memory = trial.memory()
    room = int(memory * (1 - FREE))
    seconds = largest_that_fits(trial.measure, trial.unit, trial.most, room)
    everywhere = gather_object([seconds])
    if None in everywhere:
        why = f"a single utterance of {trial.unit:g} s does not fit into {room / 2**30:.1f} GiB"
        raise UserError(
            given, why, "lower max_seconds" + (not config.gradient_checkpointing) * ", or set gradient_checkpointing"
        )
    least = float(min(everywhere))
    config.started_with_batches_of(least)
    used = min(bytes for length, bytes in trial.used.items() if length >= least)  # of this process
    bound = f"; {trial.reason}" if least == trial.most else ""
    why = f"{used / 2**30:.1f} of {memory / 2**30:.1f} GiB{bound}"
    logger.info("%s: batches of %g s (%s)", given, least, why)


class Trial:
    """Measures the memory of batches of the longest utterances.

    Attributes:
        unit: seconds of the longest utterance.
        most: seconds of the largest batch that makes sense.
        reason: why no larger one does.
        used: bytes by the seconds that were measured and fitted.
    """

    def __init__(self, config: FinetuneConfig, task: Task[Any], rows: Rows, processes: PartialState) -> None:
        self.config, self.task, self.processes = config, task, processes
        self.device = processes.device
        self.utterances, costs = rows.longest(config, task.dataset(rows), task.cost(rows))
        if not self.utterances:
            raise UserError("the longest utterances", "none of them can be read", "run `sft-speech check`")
        self.collate = task.collator()
        self.unit, world = float(costs.max()), processes.num_processes
        bounds = {"the whole corpus": float(costs.sum()) / world} if rows.table else {}
        if config.update_seconds is not None:
            bounds["update_seconds needs no more"] = config.update_seconds / world
        if self.device.type == "cpu":
            bounds["on a CPU, larger batches are not faster"] = CPU_SECONDS
        self.reason = min(bounds, key=lambda name: bounds[name], default="")
        self.most = max(self.unit, bounds.get(self.reason, float("inf")))
        self.most = min(self.most, 1e6)
        self.used: dict[float, int] = {}
        task.model.to(self.device)  # as the trainer does later
        if config.gradient_checkpointing:
            task.model.activation_checkpointing_enable()

    def memory(self) -> int:
        """Return the bytes that this process may use, those that it uses already included."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.processes.num_processes))
        return psutil.Process().memory_info().rss + free_memory()[0] // max(1, here)

    def measure(self, seconds: float) -> int | None:
        """Return the peak memory of a training step; None if it runs out, or if a kernel takes no such batch."""
        count = max(1, round(seconds / self.unit))
        try:
            if seconds not in self.used:
                self.used[seconds] = self.peak(count)
        except Exception as error:
            too_large = count > 1 and any(text in str(error) for text in TOO_LARGE)
            if not (too_large or is_memory_error(error)):
                raise
        finally:
            clear_device_cache(garbage_collection=seconds not in self.used)  # errors may refer to tensors, in cycles
        return self.used.get(seconds)

    def peak(self, count: int) -> int:
        """Train on a batch of so many utterances; return the peak of the memory in bytes."""
        batch = [self.utterances[number % len(self.utterances)] for number in range(count)]
        step = partial(
            trial_step,
            self.task.model,
            self.task.criterion,
            lambda: self.collate(batch),
            self.device,
            copies=copies_of_weights(
                self.config.optim,
                self.processes.num_processes,
                self.config.update_seconds is not None or self.config.gradient_accumulation_steps > 1,
            ),
            autocast=torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(self.config)),
        )
        if self.device.type == "cuda":
            clear_device_cache()  # otherwise its peak would include what an earlier batch has left
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            return torch.cuda.max_memory_reserved(self.device)
        with ResidentMemory() as resident:
            step()
        return resident.peak


class ResidentMemory:
    """Watches the resident memory of this process while a block runs.

    Attributes:
        peak: its maximum in bytes.
    """

    def __enter__(self) -> ResidentMemory:
        self.process, self.ended = psutil.Process(), threading.Event()
        self.peak = self.process.memory_info().rss
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.ended.wait(INTERVAL):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self.peak = max(self.peak, self.process.memory_info().rss)


class MeasuredBatch(TrainerCallback, ExportableState):
    """Keeps the number in every checkpoint, so that a resumed run has the same batches."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The Trainer requires the entry; a checkpoint of a run that was given a number lacks it.
        state.stateful_callbacks[type(self).__name__] = self.state()


def read(checkpoint: Path) -> float | None:
    """Return the number in a checkpoint; None if that run was given one."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    kept = (state.get("stateful_callbacks") or {}).get(MeasuredBatch.__name__)
    try:
        seconds = None if kept is None else float(kept["attributes"]["seconds"])
        if seconds is not None and not (np.isfinite(seconds) and seconds > 0):
            raise ValueError
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            str(checkpoint / STATE), "it is not what a run writes", "resume from another checkpoint"
        ) from error
    return seconds
