"""One fine-tuning run, from a configuration to a directory that transcribes. Read it from :func:`run` down."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate.utils import gather_object, set_seed
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from sft_speech import augment
from sft_speech.asr.checkpoint import Checkpoint, load_checkpoint
from sft_speech.asr.collator import CTCCollator, Utterances
from sft_speech.asr.ctc import CTCTask
from sft_speech.asr.evaluate import EvaluationResult, evaluate_corpus, with_transcript
from sft_speech.audio import samples_of
from sft_speech.config import FinetuneAsrConfig, save_config
from sft_speech.corpora import load_corpus
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.select import select_usable
from sft_speech.errors import UserError
from sft_speech.training import callbacks, freezing
from sft_speech.training.optimization import three_stage
from sft_speech.training.plan import BatchPlan, epoch_plan
from sft_speech.training.rehearsal import rehearse
from sft_speech.training.start import check_output, main_first, on_cpu, trackers
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

# How long processes wait for one that reads headers, in hours: NCCL's own half hour ends large scans (accelerate#2528).
PATIENCE_HOURS = 4
OVERRIDES = (
    "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout layerdrop "
    "mask_time_prob mask_time_length mask_feature_prob mask_feature_length"
).split()


def run(config: FinetuneAsrConfig) -> int:
    """Fine-tunes as ``config`` says. Returns 0, or 1 where the run was stopped before its end (it can be resumed)."""
    output = Path(config.output_dir)
    processes = accelerate.PartialState(cpu=on_cpu(), timeout=timedelta(hours=PATIENCE_HOURS))
    if not processes.is_main_process:
        logging.getLogger("sft_speech").setLevel(logging.WARNING)
    reports = trackers(config)
    with main_first(processes):
        resumed = check_output(config, output, first=processes.is_main_process)

    report = CorpusReport()
    with main_first(processes):  # the others find the index that it leaves
        corpora = load_splits(config, report)
    checkpoint = load_model(config, corpora["train"])
    corpora = {name: usable(config, name, rows, checkpoint, report) for name, rows in corpora.items()}
    if processes.is_main_process:
        report.save(output / "corpus_report.json")
    report.check(config.max_dropped_share)
    logger.info("%s", report.table())
    warn_of_overlap(config, corpora)

    trainer = build_trainer(config, checkpoint, corpora, processes, reports)
    stop = callbacks.StopWhenAsked(trainer.accelerator)
    trainer.add_callback(stop)
    if config.rehearse:
        rehearse(trainer)
    if processes.is_main_process:  # not before: what could not even start is not in the way of the next try
        save_config(dataclasses.replace(config, resume_from_checkpoint=None), output / "run.yaml")
        checkpoint.save_processor(output)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if stop.stopped:
        logger.warning("stopped at step %d; go on with --resume_from_checkpoint", trainer.state.global_step)
        return 1

    figures = training_figures(trainer) | final_evaluations(config, checkpoint, corpora, output)
    if processes.is_main_process:
        from sft_speech.hub import push, write_model_card

        checkpoint.save(output)
        (output / "all_results.json").write_text(json.dumps(figures, indent=2) + "\n")
        write_model_card(output, config, figures, report)
        if config.push_to_hub:
            push(output, config.hub_model_id, private=config.hub_private)
        logger.info("done: %s transcribes with `sft-speech transcribe %s AUDIO`", output, output)
    processes.wait_for_everyone()
    return 0


def load_splits(config: FinetuneAsrConfig, report: CorpusReport) -> dict[str, Any]:
    """The corpora by their role in the run."""
    return {
        name: load_corpus(source, split, name=name, config=config.source_config, columns=config.columns, report=report)
        for name, (source, split) in config.corpora.items()
    }


def warn_of_overlap(config: FinetuneAsrConfig, corpora: dict[str, Any]) -> None:
    """Says which evaluations tell nothing about unseen speech."""
    trained = set(corpora["train"]["id"])
    for name, rows in corpora.items():
        if name == "train" or config.corpora[name][0] != config.source:
            continue
        shared = len(trained.intersection(rows["id"]))
        if shared:
            logger.warning("%s: %d of its %d utterances are trained on as well", name, shared, len(rows))


def load_model(config: FinetuneAsrConfig, train: Any) -> Checkpoint:
    """The checkpoint with the regularization of this run, its convolutions frozen."""
    set_seed(config.seed)
    masks = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    checkpoint = load_checkpoint(
        config.model,
        transcripts=train["text"],
        revision=config.revision,
        # Some (w2v-bert-2.0) have masking switched off altogether.
        overrides={name: getattr(config, name) for name in OVERRIDES} | {"apply_spec_augment": masks},
        trust_remote_code=config.trust_remote_code,
        from_scratch=config.from_scratch,
        new_vocabulary=config.new_vocabulary,
        target_lang=config.target_lang,
        language=config.language,
    )
    if config.freeze_feature_encoder and not config.from_scratch:
        freezing.freeze_feature_encoder(checkpoint.model)
    return checkpoint


def usable(config: FinetuneAsrConfig, name: str, rows: Any, checkpoint: Checkpoint, report: CorpusReport) -> Any:
    """The rows of a split that can be used, transcripts normalized; evaluation keeps all that has a transcript."""
    if name != "train":
        return with_transcript(checkpoint, rows, name, report)
    return select_usable(
        rows,
        name,
        report,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
        normalize=checkpoint.normalizer,
        encode=checkpoint.encode,
        frames_of=lambda seconds: checkpoint.frames(samples_of(seconds, checkpoint.rate)),
        max_missing_share=config.max_missing_share,
    )


def budget(config: FinetuneAsrConfig, world: int) -> tuple[float, int]:
    """Padded seconds per batch and batches per optimizer step, so that a step sees about ``update_seconds``."""
    if config.update_seconds is None:
        return config.max_batch_seconds, config.gradient_accumulation_steps
    share = config.update_seconds / world
    accumulation = max(1, math.ceil(share / config.max_batch_seconds))
    return share / accumulation, accumulation


def plan_run(config: FinetuneAsrConfig, seconds: np.ndarray, processes: Any) -> tuple[BatchPlan, int, int]:
    """The batches of the whole run, batches per optimizer step, and optimizer steps; says what it is in one line."""
    world = processes.num_processes
    if len(seconds) < world:
        why = f"they can't be shared among {world} processes"
        raise UserError(f"{len(seconds)} utterances", why, "launch fewer processes")
    batch_seconds, accumulation = budget(config, world)
    if config.augment:
        batch_seconds *= augment.SLOWEST  # the plan knows lengths as recorded; slowed down they still fit
    per_epoch = len(epoch_plan(seconds, batch_seconds, seed=config.seed, epoch=0, world=world))
    wanted = max(1, round(config.num_train_epochs * per_epoch / accumulation))
    steps = config.max_steps if config.max_steps > 0 else wanted
    batches = steps * accumulation
    rank = processes.process_index
    plan = BatchPlan(seconds, batch_seconds, batches=batches, seed=config.seed, rank=rank, world=world)
    logger.info(
        "train: %d utterances, %.2f h, %.1f %% padding; %d steps of %d x %d batches of %.0f s = %.1f epochs",
        *(len(seconds), seconds.sum() / 3600, 100 * plan.padding()),
        *(steps, accumulation, world, batch_seconds, batches / per_epoch),
    )
    return plan, accumulation, steps


def build_trainer(
    config: FinetuneAsrConfig, checkpoint: Checkpoint, corpora: dict[str, Any], processes: Any, reports: list[str]
) -> ExactTrainer:
    """The trainer of this run; says what is trained and at which rate."""
    train, held_out = corpora["train"], corpora.get("eval")
    plan, accumulation, steps = plan_run(config, train.with_format("numpy")["seconds"][:], processes)
    extra: list[TrainerCallback] = [callbacks.BlankAdvice()]
    if config.freeze_encoder_steps:
        extra.append(freezing.HeadFirst(checkpoint.model, config.freeze_encoder_steps))
    schedule = None
    if config.lr_scheduler_type == "three_stage":
        schedule = three_stage(steps, config.warmup_steps, config.hold_share, config.final_lr_scale)
    trainer = ExactTrainer(
        model=checkpoint.model,
        args=training_arguments(config, steps, accumulation, reports, evaluates=held_out is not None),
        train_dataset=Utterances(train, checkpoint, augment.standard if config.augment else None, config.seed),
        eval_dataset=held_out,  # the plain Trainer asks for one; the evaluator is what looks at it
        data_collator=CTCCollator(checkpoint),
        task=CTCTask(checkpoint.blank),
        plan=plan,
        evaluator=(lambda: evaluate_shard(config, checkpoint, held_out).metrics()) if held_out is not None else None,
        save_processor=checkpoint.save_processor,
        schedule=schedule,
        layer_decay=config.layerwise_lr_decay,
        callbacks=extra,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(callbacks.Progress())
    set_seed(config.seed, device_specific=True)  # other masks and dropout on every process
    rates = (config.learning_rate, config.layerwise_lr_decay, config.freeze_encoder_steps)
    logger.info("%s", freezing.describe(checkpoint.model, *rates))
    return trainer


def training_arguments(
    config: FinetuneAsrConfig, steps: int, accumulation: int, reports: list[str], evaluates: bool
) -> TrainingArguments:
    """What the Hugging Face Trainer is told."""
    bf16 = config.bf16
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(Path(config.output_dir) / "tensorboard"))
    cuda = torch.cuda.is_available() and not on_cpu()
    every = max(1, round(config.eval_steps * steps) if config.eval_steps < 1 else int(config.eval_steps))
    staged = config.lr_scheduler_type == "three_stage"
    same = (
        "output_dir learning_rate adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm seed logging_steps "
        "save_total_limit dataloader_num_workers run_name activation_checkpointing"
    ).split()
    return TrainingArguments(
        **{name: getattr(config, name) for name in same},
        max_steps=steps,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="constant" if staged else config.lr_scheduler_type,
        warmup_steps=0 if staged else config.warmup_steps,
        bf16=cuda and torch.cuda.is_bf16_supported(including_emulation=False) if bf16 is None else bf16,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=every if evaluates else None,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=evaluates,
        metric_for_best_model=f"eval_{config.metric_for_best_model}" if evaluates else None,
        greater_is_better=False if evaluates else None,
        report_to=reports,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,  # a loss that is no number is to be seen
        ddp_timeout=PATIENCE_HOURS * 3600,
        disable_tqdm=False,
        use_cpu=on_cpu(),
    )


def evaluate_shard(config: FinetuneAsrConfig, checkpoint: Checkpoint, rows: Any) -> EvaluationResult:
    """Evaluates a share of ``rows`` on every process; the counts are merged, nothing else travels.

    Raises:
        UserError: none of the recordings could be read.
    """
    processes = accelerate.PartialState()
    shared = len(rows) >= processes.num_processes  # else every process hears them all, and the first one counts
    own = rows.shard(processes.num_processes, processes.process_index) if shared else rows
    parts = gather_object([evaluate_corpus(checkpoint, own, max_batch_seconds=config.max_batch_seconds)])
    whole = EvaluationResult.merge(parts if shared else parts[:1])
    if not whole.utterances:  # no errors, which would be the best word error rate of all
        raise UserError("the evaluation", "none of its utterances could be heard", "see the messages above")
    return whole


def final_evaluations(
    config: FinetuneAsrConfig, checkpoint: Checkpoint, corpora: dict[str, Any], output: Path
) -> dict[str, float]:
    """Evaluates the best checkpoint on every split but the training one, and writes the evaluation files."""
    figures: dict[str, float] = {}
    for name, rows in corpora.items():
        if name == "train":
            continue
        result = evaluate_shard(config, checkpoint, rows)
        split = config.corpora[name][1] or name
        figures |= {f"{name}_{key}": value for key, value in result.metrics().items()}
        if accelerate.PartialState().is_main_process:
            result.save(output / "evaluation", split)
            print(f"{split}\n{result.table()}", file=sys.stderr)
    return figures


def training_figures(trainer: ExactTrainer) -> dict[str, float]:
    """Of the whole run, but for the time and the speed: those are of the part since it was last resumed."""
    state, accumulation = trainer.state, trainer.args.gradient_accumulation_steps
    losses = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    steps = [step - before for (step, _), before in zip(losses, [0, *(step for step, _ in losses)], strict=False)]
    epochs = state.global_step * accumulation / trainer.batches_per_epoch
    return {
        "train_loss": sum(loss * n for (_, loss), n in zip(losses, steps, strict=True)) / max(1, sum(steps)),
        "audio_hours": float(epochs * trainer.plan.seconds.sum() / 3600),
        "train_runtime": next(e["train_runtime"] for e in reversed(state.log_history) if "train_runtime" in e),
        "audio_seconds_per_second": trainer.audio_seconds / max(trainer.training_seconds, 1e-9),
    }
