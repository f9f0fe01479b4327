"""One fine-tuning run, whatever is learned: from a configuration to a directory that works. Read it from
:func:`fine_tune` down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import accelerate
import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.utils import set_seed
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from sft_speech.corpora import load_corpus
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.errors import RESUMABLE, Stopped
from sft_speech.files import write_whole
from sft_speech.hub import provenance
from sft_speech.hub.card import LOG, write_card
from sft_speech.hub.repository import Repository
from sft_speech.hub.while_training import RunUploads, opened
from sft_speech.models import adapt as freezing
from sft_speech.options.config import FinetuneConfig
from sft_speech.training import callbacks, checkpoints, sharding
from sft_speech.training.ending import told_once
from sft_speech.training.figures import tell_counts, training_figures
from sft_speech.training.lock import OutputLock
from sft_speech.training.loss import Criterion
from sft_speech.training.oom_check import oom_check
from sft_speech.training.optimization import tri_stage
from sft_speech.training.plan import Plan
from sft_speech.training.run_plan import plan_run, plan_stream
from sft_speech.training.skipped_audio import WINDOW, SkippedAudio
from sft_speech.training.start import (
    begin,
    check_seen,
    describe_run,
    from_main,
    keep_output,
    main_first,
    on_cpu,
    tensorboard_folder,
    trackers,
)
from sft_speech.training.stop import Stop
from sft_speech.training.stream import Stream
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

# How long processes wait for one that reads headers, in hours: NCCL's own half hour ends large scans (accelerate#2528).
PATIENCE_HOURS = 4


@dataclasses.dataclass
class Parts:
    """What a job hands to the trainer.

    Args:
        model: the very module that is trained.
        criterion: its loss.
        train: gives an utterance for (epoch, index); of a stream, see ``StreamPlan.loader``.
        collate: utterances to a batch.
        evaluate: the metrics of the split "eval", on every process the same; None without such a split.
        callbacks: of this job.
        layer_decay: learning rate of a layer over that of the layer above.
        head_first_steps: optimizer steps during which only the head is trained.
        max_stretch: by how much an utterance may become longer than its row says (augmentation).
        seconds: what each utterance takes of a batch; None: what its row says.
    """

    model: PreTrainedModel
    criterion: Criterion
    train: Dataset
    collate: Callable[[list[Any]], dict[str, Any]]
    evaluate: Callable[[], dict[str, float]] | None
    callbacks: list[TrainerCallback] = dataclasses.field(default_factory=list)
    layer_decay: float = 1.0
    head_first_steps: int = 0
    max_stretch: float = 1.0
    seconds: np.ndarray | None = None


class Job(Protocol):
    """What is learned: recognition, synthesis."""

    metric: str  # picks the best checkpoint; the lowest is the best

    def load(self, rows: Any) -> None:
        """Loads the model to start from, given the rows to train on."""

    def usable(self, name: str, rows: Any, report: CorpusReport) -> Any:
        """The rows of a split that can be used, the others into the report."""

    def parts(self, corpora: dict[str, Any]) -> Parts:
        """What the trainer needs, given the usable rows."""

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the model and all that belongs to it, as plain transformers loads it.

        Args:
            weights: of a model that this process has only a piece of.
        """

    def save_processor(self, folder: Path | str) -> None:
        """Writes all but the weights and their configuration."""

    def final_evaluation(self, rows: Any, split: str, folder: Path) -> dict[str, float]:
        """Evaluates a split, on all processes together; the main one writes the evaluation files into ``folder``."""

    def usage_hint(self, output: Path) -> str:
        """What can be done with the directory."""


def fine_tune(config: FinetuneConfig, job: Job) -> int:
    """Fine-tunes as ``config`` says.

    Returns:
        0, or :data:`RESUMABLE` where the run was stopped before its end.
    """
    processes = accelerate.PartialState(cpu=on_cpu(), timeout=timedelta(hours=PATIENCE_HOURS))
    if not processes.is_main_process:
        logging.getLogger("sft_speech").setLevel(logging.WARNING)
    lock = OutputLock(Path(config.output_dir))
    with told_once(processes), Stop(processes) as stop, contextlib.closing(lock):
        try:
            run_job(config, job, processes, stop, lock)
        except Stopped:
            stop.leave()
            return RESUMABLE
    processes.wait_for_everyone()
    # By hand, after the wrapped model, which holds on to it: gloo's threads, met by the interpreter's exit, abort now
    # and then.
    gc.collect()
    processes.destroy_process_group()
    return 0


def run_job(config: FinetuneConfig, job: Job, processes: accelerate.PartialState, stop: Stop, lock: OutputLock) -> None:
    output = Path(config.output_dir)
    reports = trackers(config)
    beginning = from_main(processes, lambda: begin(config, output, lock))
    check_seen(output)
    if beginning.finished:
        logger.info("%s: the run is finished, there is nothing left to do", output)
        return
    with main_first(processes):
        repository = opened(config) if processes.is_main_process else None

    report = CorpusReport()
    corpora = from_main(processes, lambda: load_splits(config, report))
    set_seed(config.seed)
    job.load(corpora["train"])
    corpora = from_main(processes, lambda: usable_rows(config, job, corpora, report))
    logger.info("%s", report.table())

    trainer = build_trainer(config, job, corpora, processes, reports, report)
    sharding.check_resumable(trainer, beginning.checkpoint)
    trainer.stop, trainer.before_saving = stop, partial(keep_output, config, job, lock)
    trainer.add_callback(stop)
    if repository is not None:
        uploads = RunUploads(repository, output, sharding.uploadable(trainer, config.hub_strategy))
        trainer.add_callback(uploads)
    # What is cut in pieces is whole until training starts; its first step, of the same batch, has to do.
    if config.oom_check and trainer.args.device.type == "cuda" and not trainer.is_fsdp_enabled:
        oom_check(trainer)
    if processes.is_main_process:  # not before: what could not even start is not in the way of the next try
        describe_run(config, job)
        provenance.record(config, output, beginning.checkpoint, trainer.args.device, processes.num_processes)
    with stop.training():
        trainer.train(resume_from_checkpoint=str(beginning.checkpoint) if beginning.checkpoint else None)
    finish_run(config, job, corpora, trainer, report, repository)
    if processes.is_main_process:
        lock.mark(finished=True)
        if repository is not None:
            uploads.push_at_end()


def finish_run(
    config: FinetuneConfig,
    job: Job,
    corpora: dict[str, Any],
    trainer: ExactTrainer,
    report: CorpusReport,
    repository: Repository | None,
) -> None:
    """Evaluates what was learnt, and writes all that is promised of a run.

    Args:
        repository: that it will be pushed to; its card names it.
    """
    output, main = Path(config.output_dir), trainer.is_world_process_zero()
    figures = training_figures(trainer)
    tell_counts(figures)
    trainer.plan.complete()
    if main:
        report.save(output / "corpus_report.json")
    with sharding.whole(trainer):
        for name, rows in corpora.items():
            if name != "train":
                found = job.final_evaluation(rows, config.corpora[name][1] or name, output / "evaluation")
                figures |= {f"{name}_{key}": value for key, value in found.items()}
    weights = sharding.gathered(trainer)
    if main:
        with checkpoints.disk_errors(output, "go on with --resume_from_checkpoint auto"):
            job.save(output, weights)
            write_whole(output / "all_results.json", json.dumps(figures, indent=2) + "\n")
            write_whole(output / LOG, json.dumps({"log_history": trainer.state.log_history}, indent=1) + "\n")
            write_card(output, repository.id if repository else None, ask_hub=repository is not None)
        logger.info("done: %s", job.usage_hint(output))


def load_splits(config: FinetuneConfig, report: CorpusReport) -> dict[str, Any]:
    """The corpora by their role in the run; a :class:`Stream` where one is read while it is used."""
    corpora = {}
    for name, (source, split) in config.corpora.items():
        load = partial(load_corpus, source, split, name=name, config=config.source_config, columns=config.columns)
        if name in config.streamed:
            readers = accelerate.PartialState().num_processes * max(1, config.dataloader_num_workers)
            corpora[name] = Stream.opened(load, name, readers, report)
        else:
            corpora[name] = load(report=report)
    return corpora


def usable_rows(config: FinetuneConfig, job: Job, corpora: dict[str, Any], report: CorpusReport) -> dict[str, Any]:
    """What is left of the corpora, the rest reported.

    Raises:
        UserError: too little.
    """
    corpora = {name: job.usable(name, rows, report) for name, rows in corpora.items()}
    if accelerate.PartialState().is_main_process:
        report.save(Path(config.output_dir) / "corpus_report.json")
    report.check(config.max_dropped_share)
    warn_of_overlap(config, corpora)
    return corpora


def warn_of_overlap(config: FinetuneConfig, corpora: dict[str, Any]) -> None:
    """Says which evaluations tell nothing about unseen speech; of a stream that isn't known."""
    if "train" in config.streamed:
        return
    for name, rows in corpora.items():
        if name == "train" or config.corpora[name][0] != config.source:
            continue
        same = pc.is_in(column_of(corpora["train"], "id"), column_of(rows, "id").combine_chunks())
        shared = pc.sum(same).as_py()
        if shared:
            logger.warning("%s: %d of its %d utterances are trained on as well", name, shared, len(rows))


def build_trainer(
    config: FinetuneConfig,
    job: Job,
    corpora: dict[str, Any],
    processes: Any,
    reports: list[str],
    report: CorpusReport,
) -> ExactTrainer:
    """The trainer of this run; says what is trained and at which rate."""
    parts, rows = job.parts(corpora), corpora["train"]
    plan: Plan
    if isinstance(rows, Stream):
        plan, accumulation, steps = plan_stream(config, rows, processes, report, parts.max_stretch)
    else:
        seconds = column_of(rows, "seconds").to_numpy() if parts.seconds is None else parts.seconds
        plan, accumulation, steps = plan_run(config, rows, seconds, processes, parts.max_stretch)
    schedule = None
    if config.lr_scheduler_type == "tri_stage":
        schedule = tri_stage(steps, config.warmup_steps, config.hold_share, config.final_lr_scale)
    trainer = ExactTrainer(
        model=parts.model,
        args=training_arguments(config, steps, accumulation, reports, job.metric if parts.evaluate else None),
        train_dataset=parts.train,
        eval_dataset=corpora.get("eval"),  # the plain Trainer asks for one; the evaluator is what looks at it
        data_collator=parts.collate,
        criterion=parts.criterion,
        plan=plan,
        evaluator=parts.evaluate,
        save_processor=job.save_processor,
        schedule=schedule,
        layer_decay=parts.layer_decay,
        max_nonfinite_steps=config.max_nonfinite_steps,
        unread=SkippedAudio(config.max_dropped_share, WINDOW if isinstance(rows, Stream) else len(rows)),
        keep=config.save_total_limit,
        callbacks=parts.callbacks,
    )
    callbacks.tolerate_trackers(trainer)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(callbacks.Progress())
    set_seed(config.seed, device_specific=True)  # another dropout on every process
    rates = (config.learning_rate, parts.layer_decay, parts.head_first_steps)
    logger.info("%s", freezing.describe(parts.model, *rates))
    return trainer


def training_arguments(
    config: FinetuneConfig, steps: int, accumulation: int, reports: list[str], metric: str | None
) -> TrainingArguments:
    """What the Hugging Face Trainer is told.

    Args:
        metric: picks the best checkpoint; None where nothing is evaluated.
    """
    bf16 = config.bf16
    os.environ["TENSORBOARD_LOGGING_DIR"] = tensorboard_folder(config.output_dir)
    cuda = torch.cuda.is_available() and not on_cpu()
    every = max(1, round(config.eval_steps * steps) if config.eval_steps < 1 else int(config.eval_steps))
    staged = config.lr_scheduler_type == "tri_stage"
    same = (
        "output_dir learning_rate adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm seed logging_steps "
        "dataloader_num_workers run_name activation_checkpointing"
    ).split()
    return TrainingArguments(
        **{name: getattr(config, name) for name in same},
        max_steps=steps,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="constant" if staged else config.lr_scheduler_type,
        warmup_steps=0 if staged else config.warmup_steps,
        bf16=cuda and torch.cuda.is_bf16_supported(including_emulation=False) if bf16 is None else bf16,
        eval_strategy="steps" if metric else "no",
        eval_steps=every if metric else None,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=f"eval_{metric}" if metric else None,
        greater_is_better=False if metric else None,
        report_to=reports,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,  # a loss that is no number is to be seen
        ddp_timeout=PATIENCE_HOURS * 3600,
        disable_tqdm=False,
        use_cpu=on_cpu(),
    )
