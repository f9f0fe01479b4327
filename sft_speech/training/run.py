"""A fine-tuning run of any task, from its options to a usable model directory. Start reading at :func:`fine_tune`."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import pyarrow.compute as pc
from accelerate.utils import set_seed
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from sft_speech.corpora import load_corpus, rows_of_dataset
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.errors import Stopped
from sft_speech.files import honour_umask, write_whole
from sft_speech.hub import provenance
from sft_speech.hub.card import LOG, write_card
from sft_speech.hub.repository import Repository
from sft_speech.hub.while_training import RunUploads, opened
from sft_speech.models import adapt
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.spec import Metric, TaskSpec
from sft_speech.training import batch_seconds, callbacks, checkpoints, sharding
from sft_speech.training.before import BeforeAndAfter
from sft_speech.training.ending import first_error_only
from sft_speech.training.figures import log_counts, training_figures
from sft_speech.training.lock import OutputLock
from sft_speech.training.oom_check import oom_check
from sft_speech.training.optimization import tri_stage
from sft_speech.training.rows import Rows, StoredRows, StreamedRows
from sft_speech.training.skipped_audio import SkippedAudio
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
    uses_bf16,
)
from sft_speech.training.stop import Stop
from sft_speech.training.stream import Stream
from sft_speech.training.task import Task
from sft_speech.training.trainer import ExactTrainer

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

RESULTS = "all_results.json"
# Hours that processes wait for one that reads headers: NCCL's own half hour is too short for large scans
# (accelerate#2528).
PATIENCE_HOURS = 4


@dataclasses.dataclass
class Given:
    """What a run gets from Python, besides its options.

    Args:
        data: rows by their role ("train", "eval", names of test splits), in place of ``config.source``.
        callbacks: callbacks of the trainer.
    """

    data: Mapping[str, datasets.Dataset | datasets.IterableDataset] = dataclasses.field(default_factory=dict)
    callbacks: Sequence[TrainerCallback] = ()


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
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    finished: bool = False


def fine_tune(config: FinetuneConfig, spec: TaskSpec, given: Given | None = None) -> FinetuneResult:
    """Fine-tune a model for a task.

    Raises:
        UserError: the options, the model or the data cannot be used.
    """
    given = given or Given()
    processes = accelerate.PartialState(cpu=on_cpu(), timeout=timedelta(hours=PATIENCE_HOURS))
    if not processes.is_main_process:
        logging.getLogger("sft_speech").setLevel(logging.WARNING)
    lock = OutputLock(Path(config.output_dir))
    with first_error_only(processes), Stop(processes) as stop, contextlib.closing(lock):
        try:
            result = run(config, spec, given, processes, stop, lock)
        except Stopped:
            stop.leave()
            return FinetuneResult(Path(config.output_dir))
    processes.wait_for_everyone()
    # Explicitly, after the wrapped model, which refers to it, is freed: if gloo's threads are still alive when the
    # interpreter exits, they sometimes abort.
    gc.collect()
    processes.destroy_process_group()
    return result


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
    set_seed(config.seed)
    task = spec.build(config)
    task.load(corpora["train"])
    corpora = from_main(processes, lambda: usable_rows(config, task, corpora, report))
    logger.info("%s", report.table())
    task.begin(corpora)
    batch_seconds.settle(config, task, corpora["train"], processes, beginning.checkpoint)

    trainer = build_trainer(config, spec, task, corpora, processes, reports, report)
    sharding.check_resumable(trainer, beginning.checkpoint)
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
    with stop.training():
        trainer.train(resume_from_checkpoint=str(beginning.checkpoint) if beginning.checkpoint else None)
    figures = finish_run(config, spec, task, corpora, trainer, report, repository, before)
    if processes.is_main_process:
        lock.mark(finished=True)
        if repository is not None:
            uploads.push_at_end()
    return FinetuneResult(output, figures, trainer.state.log_history, finished=True)


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
) -> dict[str, float]:
    """Evaluate the model and write the final output of the run. Return its figures.

    Args:
        repository: where the model will be pushed; the card names it.
    """
    output, main = Path(config.output_dir), trainer.is_world_process_zero()
    figures, evaluations = training_figures(trainer) | before.figures(), {}
    log_counts(figures)
    trainer.plan.complete()
    if main:
        report.save(output / "corpus_report.json")
    with sharding.whole(trainer):
        for name, rows in corpora.items():
            if name != "train":
                evaluation, split = task.evaluate_at_end(rows.table), config.corpora[name][1] or name
                evaluations[name] = evaluation
                figures |= {f"{name}_{key}": value for key, value in evaluation.metrics().items()}
                if main:
                    evaluation.save(output / "evaluation", split)
                    logger.info("%s\n%s", split, evaluation.table())
    weights = sharding.gathered(trainer)
    if main:
        before.report(evaluations)
        with checkpoints.disk_errors(output, "resume with --resume_from_checkpoint auto"):
            task.save(output, weights)
            honour_umask(output)
            write_whole(output / RESULTS, json.dumps(figures, indent=2) + "\n")
            write_whole(output / LOG, json.dumps({"log_history": trainer.state.log_history}, indent=1) + "\n")
            write_card(output, spec, repository.id if repository else None, ask_hub=repository is not None)
        logger.info("done: %s", task.usage_hint(output))
    return figures


def load_splits(config: FinetuneConfig, report: CorpusReport, given: Given) -> dict[str, Rows]:
    """Return the rows of every split by its role in the run."""
    corpora: dict[str, Rows] = {}
    for name, (source, split) in config.corpora.items():
        if name in given.data:
            dropped = CorpusReport() if name in config.streamed else report
            rows = rows_of_dataset(
                given.data[name], columns=config.columns, channel=config.channel, name=name, report=dropped
            )
            corpora[name] = StreamedRows(Stream(rows, dropped)) if name in config.streamed else StoredRows(rows)
            continue
        load = partial(
            load_corpus,
            source,
            split,
            name=name,
            config=config.source_config,
            columns=config.columns,
            channel=config.channel,
        )
        if name in config.streamed:
            readers = accelerate.PartialState().num_processes * max(1, config.dataloader_num_workers)
            corpora[name] = StreamedRows(Stream.opened(load, name, readers, report))
        else:
            corpora[name] = StoredRows(load(report=report))
    return corpora


def usable_rows(
    config: FinetuneConfig, task: Task[Any], corpora: dict[str, Rows], report: CorpusReport
) -> dict[str, Rows]:
    """Return the usable rows; the others go to the report.

    Raises:
        UserError: too few rows can be used.
    """
    corpora = {name: task.usable(name, rows, report) for name, rows in corpora.items()}
    if accelerate.PartialState().is_main_process:
        report.save(Path(config.output_dir) / "corpus_report.json")
    report.check(config.max_dropped_share)
    report.warn_of_notes()
    warn_of_overlap(config, corpora)
    return corpora


def warn_of_overlap(config: FinetuneConfig, corpora: dict[str, Rows]) -> None:
    """Warn about utterances that are both trained and evaluated on; not possible for a stream."""
    if "train" in config.streamed:
        return
    for name, rows in corpora.items():
        if name == "train" or config.corpora[name][0] != config.source:
            continue
        same = pc.is_in(column_of(corpora["train"].table, "id"), column_of(rows.table, "id").combine_chunks())
        shared = pc.sum(same).as_py()
        if shared:
            logger.warning("%s: %d of its %d utterances are trained on as well", name, shared, len(rows.table))


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
    rows, held_out = corpora["train"], corpora.get("eval")
    plan, accumulation, steps = rows.plan(config, processes, report, task.cost(rows), task.max_stretch)
    schedule = None
    if config.lr_scheduler_type == "tri_stage":
        schedule = tri_stage(steps, config.warmup_steps, config.hold_share, config.final_lr_scale)
    metric = spec.metric(task.metric) if held_out is not None else None
    early_stopping = []
    if metric is None:
        logger.info("no eval_split: there is no best checkpoint and no early stopping; the last weights are kept")
    elif config.early_stopping_patience is not None:
        early_stopping.append(callbacks.EarlyStopping(config.early_stopping_patience))
    trainer = ExactTrainer(
        model=task.model,
        args=training_arguments(config, steps, accumulation, reports, metric),
        train_dataset=task.dataset(rows),
        eval_dataset=held_out and held_out.table,  # the plain Trainer requires one; only the evaluator reads it
        data_collator=task.collator(),
        criterion=task.criterion,
        plan=plan,
        evaluator=None if held_out is None else lambda: task.evaluate(held_out.table).metrics(),
        save_processor=task.save_processor,
        schedule=schedule,
        layer_decay=task.layer_decay,
        max_nonfinite_steps=config.max_nonfinite_steps,
        skipped_audio=SkippedAudio(config.max_dropped_share, rows.window),
        keep=config.save_total_limit,
        callbacks=[*task.callbacks(), *early_stopping],
    )
    if config.measured_batch_seconds is not None:
        trainer.add_callback(batch_seconds.MeasuredBatch(config.measured_batch_seconds))
    callbacks.tolerate_trackers(trainer)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(callbacks.Progress())
    set_seed(config.seed, device_specific=True)  # each process draws different dropout
    rates = (config.learning_rate, task.layer_decay, task.head_first_steps)
    logger.info("%s", adapt.describe(task.model, *rates))
    return trainer


def training_arguments(
    config: FinetuneConfig, steps: int, accumulation: int, reports: list[str], metric: Metric | None
) -> TrainingArguments:
    """Return the arguments of the Hugging Face Trainer.

    Args:
        metric: picks the best checkpoint; None without an evaluation split.
    """
    os.environ["TENSORBOARD_LOGGING_DIR"] = tensorboard_folder(config.output_dir)
    every = max(1, round(config.eval_steps * steps) if config.eval_steps < 1 else int(config.eval_steps))
    staged = config.lr_scheduler_type == "tri_stage"
    same = (
        "output_dir learning_rate adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm seed logging_steps "
        "dataloader_num_workers run_name optim"
    ).split()
    return TrainingArguments(
        **{name: getattr(config, name) for name in same},
        activation_checkpointing=config.gradient_checkpointing,  # its present name in transformers
        max_steps=steps,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="constant" if staged else config.lr_scheduler_type,
        warmup_steps=0 if staged else config.warmup_steps,
        bf16=uses_bf16(config),
        eval_strategy="steps" if metric else "no",
        eval_steps=every if metric else None,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=f"eval_{metric.name}" if metric else None,
        greater_is_better=metric.best == "max" if metric else None,
        report_to=reports,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,  # a NaN loss should be visible in the log
        ddp_timeout=PATIENCE_HOURS * 3600,
        disable_tqdm=False,
        use_cpu=on_cpu(),
    )
