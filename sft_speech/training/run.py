"""A fine-tuning run of any task, from its options to a usable model directory. Start reading at :func:`fine_tune`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
from accelerate.utils import set_seed
from transformers.trainer_callback import ProgressCallback

from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.errors import Stopped
from sft_speech.files import honour_umask, write_whole
from sft_speech.hub import provenance
from sft_speech.hub.card import LOG, Run, write_card
from sft_speech.hub.repository import Repository
from sft_speech.hub.while_training import RunUploads, opened
from sft_speech.models import lora
from sft_speech.models.described import describe
from sft_speech.models.interpolate import Start
from sft_speech.models.load import without_bars
from sft_speech.models.parts import train_only
from sft_speech.models.unfreezing import Unfreezing, starts_of
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.lora import uses_lora
from sft_speech.options.mixing import parts_of
from sft_speech.options.spec import TaskSpec
from sft_speech.report.page import write_report
from sft_speech.training import batch_seconds, callbacks, checkpoints, interpolation, keep, sharding
from sft_speech.training.arguments import training_arguments
from sft_speech.training.before import BeforeAndAfter
from sft_speech.training.corpora import Given, load_splits, usable_rows
from sft_speech.training.ending import processes_of_run
from sft_speech.training.figures import log_counts, training_figures
from sft_speech.training.lock import OutputLock
from sft_speech.training.oom_check import oom_check
from sft_speech.training.optimization import tri_stage
from sft_speech.training.rows import Rows
from sft_speech.training.selection import evaluator, figures_of
from sft_speech.training.skipped_audio import SkippedAudio
from sft_speech.training.start import (
    begin,
    check_seen,
    describe_run,
    from_main,
    keep_output,
    main_first,
    tensorboard_folder,
    trackers,
)
from sft_speech.training.stop import Stop
from sft_speech.training.task import Task
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

RESULTS = "all_results.json"


@dataclasses.dataclass
class FinetuneResult:
    """The result of a run.

    Args:
        output_dir: directory of the model and of all files of the run.
        metrics: the content of ``all_results.json``: ``train_loss``, ``eval_wer``, ...
        history: the trainer's log, one entry per line.
        finished: False if a signal stopped the run; it can be resumed.
    """

    output_dir: Path
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    finished: bool = False


def fine_tune(config: FinetuneConfig, spec: TaskSpec, given: Given | None = None) -> FinetuneResult:
    """Fine-tune a model for a task.

    Raises:
        UserError: the options, the model or the data cannot be used.
    """
    given, lock = given or Given(), OutputLock(Path(config.output_dir))
    with processes_of_run() as processes, Stop(processes) as stop, contextlib.closing(lock):
        try:
            return run(config, spec, given, processes, stop, lock)
        except Stopped:
            stop.leave()
            return FinetuneResult(Path(config.output_dir))


def run(
    config: FinetuneConfig,
    spec: TaskSpec,
    given: Given,
    processes: accelerate.PartialState,
    stop: Stop,
    lock: OutputLock,
) -> FinetuneResult:
    output = Path(config.output_dir)
    reports = trackers(config)
    beginning = from_main(processes, lambda: begin(config, output, lock))
    check_seen(output)
    if beginning.finished:
        logger.info("%s: the run is finished; there is nothing left to do", output)
        return finished_result(output)
    with main_first(processes):
        repository = opened(config) if processes.is_main_process else None

    report = CorpusReport()
    corpora = from_main(processes, lambda: load_splits(config, report, given))
    task = load_task(config, spec, corpora["train"])
    keep.check_task(config, task)
    corpora = from_main(processes, lambda: usable_rows(config, task, corpora, report))
    logger.info("%s", report.table())
    task.begin(corpora)
    batch_seconds.settle(config, task, corpora["train"], processes, beginning.checkpoint)

    trainer = build_trainer(config, spec, task, corpora, processes, reports, report)
    sharding.check_resumable(trainer, beginning.checkpoint)
    start = interpolation.keep_start(config, task, trainer, beginning.checkpoint)
    trainer.stop, trainer.before_saving = stop, partial(keep_output, config, task, lock)
    for callback in (*given.callbacks, stop):
        trainer.add_callback(callback)
    if repository is not None:
        uploads = RunUploads(repository, output, spec, sharding.uploadable(trainer, config.hub_strategy))
        trainer.add_callback(uploads)
    # A sharded model is still whole before training starts; there the first step, on the same batch, is the check.
    if config.oom_check and trainer.args.device.type == "cuda" and not trainer.is_fsdp_enabled:
        oom_check(trainer)

    def describe() -> None:
        """Called as step 1 begins, not earlier: a run that fails to start does not block the next attempt."""
        describe_run(config, task)
        provenance.record(config, output, beginning.checkpoint, trainer.args.device, processes.num_processes)

    before = BeforeAndAfter(config, task, corpora, trainer, spec.metric(task.metric), describe)
    trainer.add_callback(before)
    with without_bars():  # the run has its own
        with stop.training():
            trainer.train(resume_from_checkpoint=str(beginning.checkpoint) if beginning.checkpoint else None)
        figures = finish_run(config, spec, task, corpora, trainer, report, repository, before, start)
        if processes.is_main_process:
            if start is not None:
                start.file.unlink(missing_ok=True)
            lock.mark(finished=True)
            if repository is not None:
                uploads.push_at_end()
            report_of_run(output, spec, corpora)
    return FinetuneResult(output, figures, trainer.state.log_history, finished=True)


def load_task(config: FinetuneConfig, spec: TaskSpec, rows: Rows) -> Task[Any]:
    """Return the task of a run with its model loaded, and frozen but for the parts to train.

    Args:
        rows: the rows to train on.
    """
    set_seed(config.seed)
    task = spec.build(config)
    task.load(rows)
    if not uses_lora(config):  # which trains these parts beside its updates
        train_only(task.model, config.train, task.new_weights())
    return task


def finished_result(output: Path) -> FinetuneResult:
    """Return the result of a run that finished earlier."""
    figures, log = (json.loads((output / name).read_text(encoding="utf-8")) for name in (RESULTS, LOG))
    return FinetuneResult(output, figures, log["log_history"], finished=True)


def finish_run(
    config: FinetuneConfig,
    spec: TaskSpec,
    task: Task[Any],
    corpora: dict[str, Rows],
    trainer: ExactTrainer,
    report: CorpusReport,
    repository: Repository | None,
    before: BeforeAndAfter,
    start: Start | None,
) -> dict[str, Any]:
    """Evaluate the model and write the final output of the run. Return its figures.

    Args:
        repository: where the model will be pushed; the card names it.
        start: weights at the start, if those of the saved model are interpolated.
    """
    output, main = Path(config.output_dir), trainer.is_world_process_zero()
    figures: dict[str, Any] = training_figures(trainer) | before.figures()
    evaluations = {}
    log_counts(figures)
    trainer.plan.complete()
    # What is evaluated is what is saved; the pieces of a sharded model are merged once they are gathered.
    adapter = None if trainer.is_fsdp_enabled else lora.merge(task.model)
    if main:
        report.save(output / "corpus_report.json")
    mixed = interpolation.interpolate(config, task, spec.metric(task.metric), corpora, trainer, start)
    adapter = adapter and adapter.scaled(mixed.get("share", 1.0))
    with sharding.whole(trainer):
        for name in config.reported:
            rows, split = corpora[name].table, config.title(name)
            began, cpu_began = time.monotonic(), time.process_time()
            evaluation = evaluations[name] = task.evaluate_at_end(rows)
            seconds = sum(column_of(rows, "seconds").to_pylist())
            figures |= {f"{name}_{key}": value for key, value in evaluation.metrics().items()}
            figures[f"{name}_audio_seconds_per_second"] = seconds / (time.monotonic() - began)
            if trainer.args.device.type == "cpu" and trainer.accelerator.num_processes == 1:
                figures[f"{name}_audio_seconds_per_cpu_second"] = seconds / (time.process_time() - cpu_began)
            if main:
                evaluation.save(output / "evaluation", split)
                logger.info("%s\n%s", split, evaluation.table())
    selected = figures_of(config, {role: one.metrics() for role, one in evaluations.items()})
    figures |= {f"eval_{key}": value for key, value in selected.items()}
    weights = sharding.gathered(trainer)
    if main:
        if weights is not None:
            adapter, weights = lora.merged(task.model, weights)
        before.report(evaluations)
        kept = keep.report(config, before, evaluations, mixed.get("unmixed", {}))
        figures |= ({"keep": kept} if kept else {}) | ({"interpolation": mixed} if mixed else {})
        with checkpoints.disk_errors(output, "resume with --resume_from_checkpoint auto"):
            task.save(output, weights)
            if adapter is not None:
                adapter.save(output / "adapter", config.model, config.revision)
                if adapter.whole:  # a new vocabulary; otherwise peft would resize the base for a tokenizer beside it
                    task.save_processor(output / "adapter")
            honour_umask(output)
            write_whole(output / RESULTS, json.dumps(figures, indent=2) + "\n")
            write_whole(output / LOG, json.dumps({"log_history": trainer.state.log_history}, indent=1) + "\n")
            write_card(output, spec, repository.id if repository else None, ask_hub=repository is not None)
        logger.info("done: %s", task.usage_hint(output))
    return figures


def report_of_run(output: Path, spec: TaskSpec, corpora: dict[str, Rows]) -> None:
    """Write report.html; an error is only a warning, since the model is complete."""
    try:
        path = write_report(Run(output, spec), lambda role: corpora[role].table)
        logger.info("report: %s", path)
    except Exception as error:  # whatever its figures and recordings lead to
        again = f"sft-speech report {output}"
        logger.warning("the report of the run was not written (%s: %s); try `%s`", type(error).__name__, error, again)


def build_trainer(
    config: FinetuneConfig,
    spec: TaskSpec,
    task: Task[Any],
    corpora: dict[str, Rows],
    processes: accelerate.PartialState,
    reports: list[str],
    report: CorpusReport,
) -> ExactTrainer:
    """Return the trainer of a run; log what is trained and at which rates."""
    rows, evaluate = corpora["train"], evaluator(config, task, corpora)
    plan, accumulation, steps = rows.plan(config, processes, report, task.cost(rows), task.max_stretch)
    schedule = None
    if config.lr_scheduler_type == "tri_stage":
        schedule = tri_stage(steps, config.warmup_steps, config.hold_share, config.final_lr_scale)
    starts = starts_of(task.model, task.head_first_steps, config.unfreeze_every_steps)
    last = max(starts.values(), default=0)
    if last >= steps:
        why = "unfreeze_every_steps" if config.unfreeze_every_steps else "freeze_encoder_steps"
        logger.warning("%s: the run has %d steps, and the last part would be trained from step %d on", why, steps, last)
    metric = spec.metric(task.metric) if evaluate is not None else None
    early_stopping = []
    if metric is None:
        logger.info("no eval_split: there is no best checkpoint and no early stopping; the last weights are kept")
    elif config.early_stopping_patience is not None:
        early_stopping.append(callbacks.EarlyStopping(config.early_stopping_patience, last))
    trainer = ExactTrainer(
        model=task.model,
        args=training_arguments(config, steps, accumulation, reports, metric),
        train_dataset=task.dataset(rows),
        # The plain Trainer requires one; only the evaluator reads it.
        eval_dataset=None if evaluate is None else corpora[config.selecting[0]].table,
        data_collator=task.collator(),
        criterion=task.criterion,
        plan=plan,
        evaluator=evaluate,
        sources=[part.name for part in parts] if len(parts := parts_of(config)) > 1 else (),
        save_processor=task.save_processor,
        schedule=schedule,
        layer_decay=config.layerwise_lr_decay,
        unfreezing=Unfreezing(task.model, starts) if starts else None,
        max_nonfinite_steps=config.max_nonfinite_steps,
        skipped_audio=SkippedAudio(config.max_dropped_share, rows.window),
        keep=config.save_total_limit,
        callbacks=[*task.callbacks(), *early_stopping],
    )
    if config.measured_batch_seconds is not None:
        trainer.add_callback(batch_seconds.MeasuredBatch(config.measured_batch_seconds))
    callbacks.prepare_trackers(trainer, tensorboard_folder(config.output_dir))
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(callbacks.Progress())
    set_seed(config.seed, device_specific=True)  # each process draws different dropout
    logger.info("%s", describe(task.model, config.learning_rate, config.layerwise_lr_decay, starts))
    return trainer
