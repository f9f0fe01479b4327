"""Plan the length and the batches of a run from its options."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneConfig
from sft_speech.text.counted import counted
from sft_speech.training import same_corpus
from sft_speech.training.plan import BatchPlan, Draw
from sft_speech.training.stream import Stream
from sft_speech.training.stream_plan import StreamPlan

logger = logging.getLogger(__name__)


def budget(config: FinetuneConfig, world: int) -> tuple[float, int]:
    """Return padded seconds per batch and batches per optimizer step, so that a step has about ``update_seconds``."""
    if config.update_seconds is None:
        return config.batch_seconds, config.gradient_accumulation_steps
    share = config.update_seconds / world
    accumulation = max(1, math.ceil(share / config.batch_seconds))
    return share / accumulation, accumulation


def plan_run(
    config: FinetuneConfig,
    rows: Any,
    seconds: np.ndarray,
    processes: Any,
    max_stretch: float = 1.0,
    draw: Draw | None = None,
) -> tuple[BatchPlan, int, int]:
    """Plan a run. Return its batches, the batches per optimizer step, and the optimizer steps; log them in one line.

    Args:
        rows: the N rows.
        seconds: (N,) cost of each in a batch.
        max_stretch: the largest factor by which augmentation may lengthen an utterance.
        draw: the utterances of each epoch; None for all of them.
    """
    world = processes.num_processes
    if (len(seconds) if draw is None else len(draw.keys(0))) < world:
        why = f"there are {world} processes, and each needs one"
        raise UserError(counted(len(seconds), "utterance"), why, "launch fewer processes")
    batch_seconds, accumulation = budget(config, world)
    batch_seconds /= max_stretch
    rank, corpus = processes.process_index, same_corpus.identity(rows, seconds)
    if draw is not None:
        corpus |= draw.record
    plan = BatchPlan(
        seconds,
        batch_seconds,
        batches=0,
        seed=config.seed,
        rank=rank,
        world=world,
        accumulation=accumulation,
        max_epochs=None if config.max_steps > 0 else config.num_train_epochs,
        corpus=corpus,
        draw=draw,
    )
    wanted = max(1, round(config.num_train_epochs * plan.per_epoch / accumulation))
    steps = config.max_steps if config.max_steps > 0 else wanted
    plan.batches = steps * accumulation
    logger.info(
        "train: %s, %.2f h, %.1f %% padding; %s = %.1f epochs",
        *(counted(len(seconds), "utterance"), column_of(rows, "seconds").to_numpy().sum() / 3600, 100 * plan.padding()),
        *(described(steps, accumulation, world, batch_seconds), plan.epochs(plan.batches)),
    )
    return plan, accumulation, steps


def described(steps: int, accumulation: int, world: int, batch_seconds: float) -> str:
    """Return the steps of a run in words: 9 steps of 2 x 1 batches of 100 s."""
    batches = "batch" if accumulation * world == 1 else "batches"
    return f"{counted(steps, 'step')} of {accumulation} x {world} {batches} of {batch_seconds:.0f} s"


def plan_stream(
    config: FinetuneConfig, stream: Stream, processes: Any, report: CorpusReport, max_stretch: float
) -> tuple[StreamPlan, int, int]:
    """Plan a run as :func:`plan_run` does, for a corpus that is read during the run and reported in ``report``."""
    world = processes.num_processes
    batch_seconds, accumulation = budget(config, world)
    plan = StreamPlan(
        stream,
        report,
        config.max_dropped_share,
        batch_seconds / max_stretch,
        max_seconds=config.max_seconds,
        batches=config.max_steps * accumulation,
        seed=config.seed,
        rank=processes.process_index,
        world=world,
    )
    logger.info(
        "train: a stream of %s; %s",
        counted(stream.rows.num_shards, "shard"),
        described(config.max_steps, accumulation, world, batch_seconds / max_stretch),
    )
    return plan, accumulation, config.max_steps
