"""The arguments of the Hugging Face Trainer."""

from __future__ import annotations

from transformers import TrainingArguments

from sft_speech.options.config import FinetuneConfig
from sft_speech.options.spec import Metric
from sft_speech.training.start import on_cpu, uses_bf16

# Hours that processes wait for one that reads headers: NCCL's own half hour is too short for large scans
# (accelerate#2528).
PATIENCE_HOURS = 4


def training_arguments(
    config: FinetuneConfig, steps: int, accumulation: int, reports: list[str], metric: Metric | None
) -> TrainingArguments:
    """Return the arguments of the Hugging Face Trainer.

    Args:
        metric: picks the best checkpoint; None without an evaluation split.
    """
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
