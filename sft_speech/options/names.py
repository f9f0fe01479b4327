"""Names of options: renamed ones, and those of ``transformers.TrainingArguments`` that do not exist here."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from typing import Any

from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

# Old name: present name, for both YAML keys and flags. An entry stays for one release.
RENAMED = {
    "activation_checkpointing": "gradient_checkpointing",
    "max_bad_steps": "max_nonfinite_steps",
    "rehearse": "oom_check",
}
RENAMED_VALUES = {("lr_scheduler_type", "three_stage"): "tri_stage"}

# Advice: arguments of the Hugging Face Trainer, past and present, that it applies to.
_INSTEAD = {
    "set max_batch_seconds, the padded seconds of audio per batch and process": """per_device_train_batch_size
        per_device_eval_batch_size per_gpu_train_batch_size per_gpu_eval_batch_size auto_find_batch_size""",
    "set eval_steps; checkpoints are saved and evaluated at the same steps": """save_steps save_strategy eval_strategy
        evaluation_strategy eval_delay""",
    "set warmup_steps; below 1 it is a share of the run": "warmup_ratio",
    "set warmup_steps, hold_share and final_lr_scale; they shape the schedule": "lr_scheduler_kwargs",
    "set bf16, for GPUs that have it; fp16 is not supported": "fp16 fp16_opt_level fp16_backend half_precision_backend",
    "set bf16; GPUs with TF32 have bfloat16 too": "tf32",
    "leave it out; evaluation uses the precision of training": "bf16_full_eval fp16_full_eval",
    "leave it out; torch.compile is not supported, since every batch has a different shape": """torch_compile
        torch_compile_backend torch_compile_mode torchdynamo""",
    "set gradient_checkpointing; there is nothing else to choose": """activation_checkpointing_kwargs
        gradient_checkpointing_kwargs""",
    "set optim, adam_beta1, adam_beta2 and adam_epsilon": "optim_args optim_target_modules adafactor",
    "leave it out; batches always hold utterances of similar length": """group_by_length length_column_name
        train_sampling_strategy""",
    "set eval_split; the run then ends with its best checkpoint": "load_best_model_at_end do_eval",
    "leave it out; each metric knows its direction": "greater_is_better",
    "set source and train_split": "do_train",
    "set test_splits": "do_predict",
    "run `sft-speech evaluate` on the checkpoint first": "eval_on_start",
    "leave it out; TensorBoard's files are in OUTPUT_DIR/tensorboard": "logging_dir",
    "set resume_from_checkpoint, or choose another output_dir": "overwrite_output_dir",
    "leave it out; a checkpoint contains everything that resuming needs": """save_only_model enable_jit_checkpoint
        ignore_data_skip restore_callback_states_from_checkpoint save_on_each_node save_safetensors""",
    "set logging_steps": "logging_strategy logging_first_step",
    "set report_to and run_name": "project trackio_space_id trackio_bucket_id trackio_static_space_id",
    "set seed": "data_seed full_determinism",
    "set dataloader_num_workers; the rest follows from it": """dataloader_pin_memory dataloader_persistent_workers
        dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order""",
    "leave it out; no utterance is skipped": "dataloader_drop_last",
    "set hub_private": "hub_private_repo",
    "set hub_model_id to OWNER/NAME": "push_to_hub_model_id push_to_hub_organization",
    "set the variable HF_TOKEN, or call `hf auth login`": "hub_token push_to_hub_token",
    "run `sft-speech push --revision` afterwards": "hub_revision",
    "set hub_strategy": "hub_always_push",
    "start with `accelerate launch --cpu`": "use_cpu no_cuda use_mps_device",
    "start with `accelerate launch --config_file`; configs/accelerate/ has files for it": """accelerator_config
        ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout
        deepspeed fsdp fsdp_config local_rank parallelism_config split_batches""",
    "leave it out; --debug shows the traceback of an error": """debug log_level log_level_replica log_on_each_node
        disable_tqdm skip_memory_metrics""",
    "leave it out; it does not apply to speech models": """average_tokens_across_devices eval_accumulation_steps
        eval_do_concat_batches eval_use_gather_object batch_eval_metrics include_for_metrics
        include_num_input_tokens_seen label_names label_smoothing_factor liger_kernel_config logging_nan_inf_filter
        neftune_noise_alpha prediction_loss_only remove_unused_columns torch_empty_cache_steps use_cache
        use_liger_kernel""",
}
INSTEAD = {name: hint for hint, names in _INSTEAD.items() for name in names.split()}


def advice(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return what to do about an unknown option.

    Args:
        known: the existing options. Arguments of the Hugging Face Trainer are explained if these are for fine-tuning.
        prefix: put before the suggested name.
    """
    name = name.replace("-", "_")
    if name in INSTEAD and "learning_rate" in known:
        return INSTEAD[name]
    near = ["train_split"] if name == "split" and "train_split" in known else difflib.get_close_matches(name, known, 1)
    return f"did you mean {prefix}{near[0]}?" if near else "--help lists the options"


def current(values: Mapping[str, Any], source: str | None = None) -> dict[str, Any]:
    """Return settings with old names and values replaced by the current ones.

    Args:
        source: their origin, named in warnings; None for files that the user did not write.

    Raises:
        UserError: an option is set under both of its names.
    """
    found: dict[str, Any] = {}
    for old, value in values.items():
        name = RENAMED.get(old, old)
        if name in found or (name != old and name in values):
            raise UserError(f"{source or 'settings'}: {name}", "it is set under two names", f"remove {old}")
        if name != old:
            warn_renamed(source, old, name)
        if isinstance(value, str) and (name, value) in RENAMED_VALUES:
            warn_renamed(source, f"{name}: {value}", RENAMED_VALUES[name, value])
            value = RENAMED_VALUES[name, value]
        found[name] = value
    return found


def warn_renamed(source: str | None, old: str, new: str) -> None:
    if source is not None:
        logger.warning("%s: %s is now %s; the old name works until the next release", source, old, new)
