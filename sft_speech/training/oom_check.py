"""A trial run of the most expensive batch before step 1, so that memory runs out at once or never.

Step 1 trains on that batch too (:func:`~sft_speech.training.plan.epoch_plan`), but the optimizer allocates its state
only afterwards. Without a GPU, a process that uses too much memory is killed without an error, so there the check would
only cost time.
"""

from __future__ import annotations

import logging

import torch

from sft_speech.errors import UserError
from sft_speech.text.counted import counted
from sft_speech.training.trainer import ExactTrainer, is_memory_error
from sft_speech.training.trial import copies_of_weights, trial_step

logger = logging.getLogger(__name__)


def oom_check(trainer: ExactTrainer) -> None:
    """Run the worst batch of the plan forward and backward, with the optimizer's memory reserved.

    Weights, gradients and random states are restored.

    Raises:
        UserError: it does not fit into memory; the message suggests what to lower.
    """
    plan, model = trainer.plan, trainer.accelerator.unwrap_model(trainer.model)
    worst = plan.worst()
    seconds = len(worst) * float(plan.seconds[worst].max())
    cuda = trainer.args.device.type == "cuda"
    if trainer.args.activation_checkpointing:  # the trainer enables it only when training starts
        model.activation_checkpointing_enable()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        trial_step(
            model,
            trainer.criterion,
            lambda: trainer.data_collator(plan.rehearsal(trainer.utterances)),
            trainer.args.device,
            copies=copies_of_weights(
                trainer.args.optim, trainer.accelerator.num_processes, trainer.args.gradient_accumulation_steps > 1
            ),
            autocast=trainer.accelerator.autocast(),
        )
    except Exception as error:
        if not is_memory_error(error):
            raise
        raise too_large(trainer, seconds, worst) from error
    if cuda:
        used = torch.cuda.max_memory_allocated() / 2**30
        total = torch.cuda.get_device_properties(trainer.args.device).total_memory / 2**30
        logger.info("oom_check: the worst batch (%.0f padded s) takes %.1f of %.1f GiB", seconds, used, total)
        torch.cuda.empty_cache()


def too_large(trainer: ExactTrainer, seconds: float, worst: list[int]) -> UserError:
    longest = float(trainer.plan.seconds[worst].max())
    budget = f"lower max_batch_seconds (now {trainer.plan.max_batch_seconds:g}) to {max(longest, seconds / 2):.0f}"
    do = budget if len(worst) > 1 else f"lower max_seconds below {longest:.0f}"
    if not trainer.args.activation_checkpointing:
        do += " or set gradient_checkpointing"
    given = f"the worst batch ({counted(len(worst), 'utterance')}, {seconds:.0f} padded s)"
    return UserError(given, "it does not fit into memory", do)
