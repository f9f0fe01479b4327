"""Run batches through a model: one after the other on a GPU, a few at a time on a CPU; results keep their order."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")
Load = Callable[[Batch], Batch]
Forward = Callable[[torch.nn.Module, Batch], Any]


def at_once(device: torch.device) -> int:
    """Return how many batches are computed at once: one on a GPU, one per core, up to four, on a CPU."""
    return min(4, torch.get_num_threads()) if device.type == "cpu" else 1


def computed(
    model: torch.nn.Module, batches: Iterator[Batch], load: Load, forward: Forward, device: torch.device
) -> Generator[tuple[Batch, Any], None, None]:
    """Yield each batch, read by ``load(batch)``, with the result of ``forward(model, batch)``."""
    if device.type == "cpu":
        return on_cores(model, batches, load, forward)
    return on_device(model, batches, load, forward)


def on_device(
    model: torch.nn.Module, batches: Iterator[Batch], load: Load, forward: Forward
) -> Generator[tuple[Batch, Any], None, None]:
    """Yield a batch while the next one is computed."""
    computing: deque[tuple[Batch, Any]] = deque()
    with contextlib.closing(ahead(min(4, os.cpu_count() or 1), load, batches)) as loaded:
        for batch in loaded:
            computing.append((batch, forward(model, batch)))
            if len(computing) > 1:
                yield computing.popleft()
        yield from computing


def on_cores(
    model: torch.nn.Module, batches: Iterator[Batch], load: Load, forward: Forward
) -> Generator[tuple[Batch, Any], None, None]:
    """Process each batch on its own cores, from file to result, which wastes less time than all cores on one batch."""
    cores = torch.get_num_threads()
    workers = at_once(torch.device("cpu"))
    own = threading.local()

    def compute(batch: Batch) -> tuple[Batch, Any]:
        if not hasattr(own, "model"):
            torch.set_num_threads(cores // workers)  # for this thread
            own.model = replica(model) if workers > 1 else model
        loaded = load(batch)
        return loaded, forward(own.model, loaded)

    try:
        with contextlib.closing(ahead(workers, compute, batches)) as results:
            yield from results
    finally:
        torch.set_num_threads(cores)  # for new threads


def ahead(workers: int, work: Callable[[Batch], Any], batches: Iterator[Batch]) -> Generator[Any, None, None]:
    """Yield what threads make of batches, in order; at most one more batch than there are threads is in progress."""
    threads = ThreadPoolExecutor(workers, thread_name_prefix="recognize")
    try:
        under_way = deque(threads.submit(work, batch) for batch in islice(batches, workers + 1))
        while under_way:
            done = under_way.popleft().result()
            under_way.extend(threads.submit(work, batch) for batch in islice(batches, 1))
            yield done
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def replica(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of the modules with the same weights, because modules hold the lengths of the current batch."""
    weights = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(weight): weight for weight in weights})
