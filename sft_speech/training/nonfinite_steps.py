"""Optimizer steps whose gradient is no number: left out, told and kept on file; after too many of them the run ends."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from sft_speech.errors import UserError
from sft_speech.training.skipped_audio import CONTENTS

if TYPE_CHECKING:
    from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

FILE = "bad_batches.jsonl"  # in the output directory
WINDOW = 100  # steps among which `max_nonfinite_steps` is counted
_SHOWN = 3  # ids in a message; the file has them all


@dataclass
class Step:
    """An optimizer step of this process.

    Args:
        batches: of each the ids, the seconds of audio, and the shape of every tensor.
        losses: of each, scalars on the device, divided by what the whole step is divided by.
        number, learning_rate: those of the step.
        norm: scalar on the device, of the gradient of all processes together.
    """

    batches: list[dict[str, Any]]
    losses: list[torch.Tensor] = field(default_factory=list)
    number: int = 0
    learning_rate: float = 0.0
    norm: torch.Tensor = field(default_factory=lambda: torch.tensor(0.0))


class NonfiniteSteps:
    """Guards a trainer's weights against gradients that are NaN or infinite.

    Every process sees the same norm of the summed gradients, so that all of them leave out the same steps without a
    word between them. The optimizer is told on the device; the host hears of it when it waits for the device anyway,
    to write a line of the log or a checkpoint. So a GPU never stands still for this. The batches of a step that was
    left out count as seen, and the schedule goes on.

    Args:
        trainer: its optimizer costs no waiting if it has fused kernels, as the default one has.
        limit: more bad steps among the last :data:`WINDOW` end the run.
    """

    def __init__(self, trainer: ExactTrainer, limit: int) -> None:
        self.trainer, self.limit = trainer, limit
        self.step = Step([])
        self.waiting: list[Step] = []  # the host doesn't know their norms yet
        self.recent: deque[bool] = deque(maxlen=WINDOW)
        self.since_log = 0

    def begin(self, batches: list[dict[str, Any]]) -> None:
        """Notes what the next step is made of."""
        self.step = Step([described(batch) for batch in batches])

    def guard(self, norm: torch.Tensor) -> None:
        """Before the optimizer's step: has it do nothing where the norm of the gradients is no number."""
        norm = norm.detach()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer: Any = self.trainer.optimizer
        if optimizer.optimizer.defaults.get("fused"):
            # As torch's GradScaler does: the kernels leave weights, moments and count of steps as they are.
            optimizer.optimizer.found_inf = (~torch.isfinite(norm)).float()
        elif not math.isfinite(norm.item()):  # other optimizers skip weights without a gradient; the host has to wait
            optimizer.optimizer.zero_grad(set_to_none=True)
        self.step.number, self.step.norm = self.trainer.state.global_step + 1, norm
        self.step.learning_rate = self.trainer._get_learning_rate()
        self.waiting.append(self.step)
        if norm.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Tells of bad steps that weren't told yet; all processes have to call it at the same time.

        Raises:
            UserError: there were too many.
        """
        steps, self.waiting = self.waiting, []
        norms = torch.stack([step.norm for step in steps]).tolist() if steps else []
        for step, norm in zip(steps, norms, strict=True):
            bad = not math.isfinite(norm)
            self.recent.append(bad)
            if bad:
                self.since_log += 1
                self.tell(step, norm)
            if sum(self.recent) > self.limit:
                raise self.too_many(step)

    def tell(self, step: Step, norm: float) -> None:
        """Shows what a step was made of, and keeps it on file; the main process does, for all."""
        accelerator = self.trainer.accelerator
        losses = torch.stack(step.losses).tolist() if step.losses else []
        mine = [
            {"process": accelerator.process_index, "loss": loss, **batch}
            for batch, loss in zip(step.batches, losses, strict=True)
        ]
        batches = gather_object(mine)
        if not accelerator.is_main_process:
            return
        entry = {"step": step.number, "learning_rate": step.learning_rate, "grad_norm": norm, "batches": batches}
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        # Where a loss is no number it is that batch; else the gradients overflowed, in any of them.
        suspects = [batch for batch in batches if not math.isfinite(batch["loss"])] or batches
        ids = [id for batch in suspects for id in batch["ids"]]
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in suspects[0]["shapes"].items())
        logger.warning(
            "step %d is left out, its gradient is no number (loss %.4g, learning rate %.2e, process %d, %.1f s, %s): "
            "utterances %s%s; all of it in %s",
            *(step.number, suspects[0]["loss"], step.learning_rate, suspects[0]["process"], suspects[0]["seconds"]),
            *(shapes, ", ".join(ids[:_SHOWN]), more, self.file),
        )

    @property
    def model(self) -> Any:
        return self.trainer.model

    @property
    def file(self) -> Path:
        return self.trainer.folder / FILE

    def too_many(self, step: Step) -> UserError:
        why = f"{sum(self.recent)} of the last {len(self.recent)} steps had a gradient that is no number"
        do = "lower learning_rate, or take out the recordings that come again and again there"
        name = broken_weights(self.model)
        if name is not None:
            why, do = f"{why}, for {name} holds NaN or infinity", "start from a checkpoint that is whole"
        return UserError(
            f"step {step.number}", f"{why}; {self.file} has their batches", f"{do}; --resume_from_checkpoint goes on"
        )

    def check_weights(self) -> None:
        """Before a checkpoint: see that it is worth keeping.

        Raises:
            UserError: a weight is no number, on every process.
        """
        self.settle()
        trainer = self.trainer
        broken = torch.tensor(float(broken_weights(self.model) is not None), device=trainer.args.device)
        if trainer.accelerator.reduce(broken, "sum") > 0:
            name = broken_weights(self.model) or "a weight of another process"
            why = f"{name} holds NaN or infinity after step {trainer.state.global_step}, which is not saved"
            raise UserError("the model", why, "lower learning_rate, and go on with --resume_from_checkpoint")

    def figures(self) -> dict[str, float]:
        """How many steps were left out since this was last asked, if any."""
        self.settle()
        count, self.since_log = self.since_log, 0
        return {"skipped_steps": count} if count else {}


def described(batch: dict[str, Any]) -> dict[str, Any]:
    """What is told of a batch."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return {
        "ids": batch[CONTENTS]["ids"],
        "seconds": round(float(batch["seconds"]), 3),
        "shapes": {name: list(value.shape) for name, value in tensors.items() if value.ndim},
    }


@torch.no_grad()
def broken_weights(model: torch.nn.Module) -> str | None:
    """The name of a weight that is NaN or infinite, of those that this process holds."""
    names = [name for name, _ in model.named_parameters()]
    own = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    finite = torch.stack([torch.isfinite(weights).all() for weights in own]).tolist()
    return next((name for name, fine in zip(names, finite, strict=True) if not fine), None)
