"""Optimizer steps whose gradient is NaN or infinite: skipped, reported and recorded in a file; too many end the run."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import Trainer

from sft_speech.errors import UserError
from sft_speech.training.skipped_audio import CONTENTS

logger = logging.getLogger(__name__)

FILE = "bad_batches.jsonl"  # in the output directory
WINDOW = 100  # steps among which `max_nonfinite_steps` is counted
_SHOWN = 3  # ids in a message; the file lists them all


@dataclass
class Step:
    """An optimizer step of this process.

    Args:
        batches: ids, seconds of audio and tensor shapes of each batch.
        losses: loss of each batch, a scalar on the device, divided by the count of the whole step.
        norm: norm of the gradient summed over all processes, a scalar on the device.
    """

    batches: list[dict[str, Any]]
    losses: list[torch.Tensor] = field(default_factory=list)
    number: int = 0
    learning_rate: float = 0.0
    norm: torch.Tensor = field(default_factory=lambda: torch.tensor(0.0))


class NonfiniteSteps:
    """Guards the weights of a trainer against gradients that are NaN or infinite.

    Every process sees the same norm of the summed gradients, so all of them skip the same steps without communicating.
    The optimizer reads the norm on the device. The host reads it only when it waits for the device anyway, to write a
    line of the log or a checkpoint, so that the GPU never idles for this. The batches of a skipped step count as
    trained on, and the schedule continues.

    Args:
        trainer: with a fused optimizer, such as the default one, the check needs no synchronization.
        limit: the run ends when more of the last :data:`WINDOW` steps are non-finite.
    """

    def __init__(self, trainer: Trainer, limit: int) -> None:
        self.trainer, self.limit = trainer, limit
        self.file = Path(trainer.args.output_dir or ".") / FILE
        self.step = Step([])
        self.waiting: list[Step] = []  # the host doesn't know their norms yet
        self.recent: deque[bool] = deque(maxlen=WINDOW)
        self.since_log = 0

    def begin(self, batches: list[dict[str, Any]]) -> None:
        """Record the batches of the next step."""
        self.step = Step([described(batch) for batch in batches])

    def guard(self, norm: torch.Tensor) -> None:
        """Make the optimizer's next step a no-op if the norm of the gradients is not finite."""
        norm = norm.detach()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer: Any = self.trainer.optimizer
        if optimizer.optimizer.defaults.get("fused"):
            # As torch's GradScaler does: the kernels leave weights, moments and count of steps as they are.
            optimizer.optimizer.found_inf = (~torch.isfinite(norm)).float()
        elif not math.isfinite(norm.item()):  # other optimizers skip weights without a gradient; the host has to wait
            optimizer.optimizer.zero_grad(set_to_none=True)
        scheduler: Any = self.trainer.lr_scheduler
        self.step.number, self.step.norm = self.trainer.state.global_step + 1, norm
        self.step.learning_rate = scheduler.get_last_lr()[0]
        self.waiting.append(self.step)
        if norm.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Report the skipped steps that were not reported yet; all processes must call it at the same time.

        Raises:
            UserError: there were too many.
        """
        steps, self.waiting = self.waiting, []
        norms = torch.stack([step.norm for step in steps]).tolist() if steps else []
        for step, norm in zip(steps, norms, strict=True):
            skipped = not math.isfinite(norm)
            self.recent.append(skipped)
            if skipped:
                self.since_log += 1
                self.report(step, norm)
            if sum(self.recent) > self.limit:
                raise self.too_many(step)

    def report(self, step: Step, norm: float) -> None:
        """Log the batches of a step and append them to the file; the main process does it for all."""
        accelerator = self.trainer.accelerator
        losses = torch.stack(step.losses).tolist() if step.losses else []
        own = [
            {"process": accelerator.process_index, "loss": loss, **batch}
            for batch, loss in zip(step.batches, losses, strict=True)
        ]
        batches = gather_object(own)
        if not accelerator.is_main_process:
            return
        entry = {"step": step.number, "learning_rate": step.learning_rate, "grad_norm": norm, "batches": batches}
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        # A batch with a non-finite loss is the culprit; without one, the gradients of any batch may have overflowed.
        suspects = [batch for batch in batches if not math.isfinite(batch["loss"])] or batches
        ids = [id for batch in suspects for id in batch["ids"]]
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in suspects[0]["shapes"].items())
        logger.warning(
            "step %d is skipped, its gradient is not finite (loss %.4g, learning rate %.2e, process %d, %.1f s, %s): "
            "utterances %s%s; details in %s",
            *(step.number, suspects[0]["loss"], step.learning_rate, suspects[0]["process"], suspects[0]["seconds"]),
            *(shapes, ", ".join(ids[:_SHOWN]), more, self.file),
        )

    @property
    def model(self) -> torch.nn.Module:
        """The model of the trainer, which FSDP replaces when training starts."""
        model: Any = self.trainer.model
        return model

    def too_many(self, step: Step) -> UserError:
        why = f"{sum(self.recent)} of the last {len(self.recent)} steps had a gradient that is not finite"
        do = "lower learning_rate, or remove the recordings that recur in it"
        name = broken_weights(self.model)
        if name is not None:
            why, do = f"{why}, because {name} holds NaN or infinity", "start from an intact checkpoint"
        why = f"{why}; {self.file} lists their batches"
        return UserError(f"step {step.number}", why, f"{do}; --resume_from_checkpoint continues")

    def check_weights(self) -> None:
        """Check the weights before they are saved.

        Raises:
            UserError: a weight is not finite; raised on every process.
        """
        self.settle()
        trainer = self.trainer
        broken = torch.tensor(float(broken_weights(self.model) is not None), device=trainer.args.device)
        if trainer.accelerator.reduce(broken, "sum") > 0:
            name = broken_weights(self.model) or "a weight of another process"
            why = f"{name} holds NaN or infinity after step {trainer.state.global_step}, which is not saved"
            raise UserError("the model", why, "lower learning_rate, and resume with --resume_from_checkpoint")

    def figures(self) -> dict[str, float]:
        """Return how many steps were skipped since the last call, if any."""
        self.settle()
        count, self.since_log = self.since_log, 0
        return {"skipped_steps": count} if count else {}


def described(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a batch for reports."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return {
        "ids": batch[CONTENTS]["ids"],
        "seconds": round(float(batch["seconds"]), 3),
        "shapes": {name: list(value.shape) for name, value in tensors.items() if value.ndim},
    }


@torch.no_grad()
def broken_weights(model: torch.nn.Module) -> str | None:
    """Return the name of a weight of this process that is NaN or infinite, or None."""
    names = [name for name, _ in model.named_parameters()]
    own = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    finite = torch.stack([torch.isfinite(weights).all() for weights in own]).tolist()
    return next((name for name, fine in zip(names, finite, strict=True) if not fine), None)
