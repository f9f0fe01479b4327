"""The Hugging Face Trainer, exact: one loss under any split of the batch, planned batches, whole checkpoints."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerState, TrainingArguments

from sft_speech.errors import Stopped, UserError
from sft_speech.models import adapt as freezing
from sft_speech.training import checkpoints, optimization, sharding
from sft_speech.training.loss import Criterion
from sft_speech.training.nonfinite_steps import NonfiniteSteps
from sft_speech.training.plan import Plan
from sft_speech.training.saving import SavingTrainer, preserved_rng
from sft_speech.training.skipped_audio import CONTENTS, SkippedAudio, WithContents
from sft_speech.training.workers import leave_signals_to_the_trainer, let_go, worker_error

logger = logging.getLogger(__name__)


class ExactTrainer(SavingTrainer):
    """Differs from :class:`transformers.Trainer` in this:

    - The loss of an optimizer step is the sum over its utterances, on all micro-batches and processes, over one count.
      The plain one takes CTC losses for normalized by the step's count, which they are not, and gives gradients that
      grow with accumulation and processes (transformers#47688).
    - Batches come from a :class:`Plan` over the whole run; a resumed run goes on at the very batch.
    - Evaluation is handed in as a function: it knows words and speakers, where the plain one gathers logits.
    - A step whose gradient is no number is left out (:mod:`~sft_speech.training.nonfinite_steps`).
    - A checkpoint is known to be whole, and never costs the one before it (:class:`SavingTrainer`).

    Args:
        criterion: loss and figures.
        plan: the batches of this process, of the whole run.
        train_dataset: makes the utterances that the plan asks for.
        evaluator: gives the metrics of the evaluation split, on every process the same.
        save_processor: writes what belongs beside the weights into a directory.
        schedule: factor on the learning rate by step, or None for the one that ``args`` names.
        layer_decay: learning rate of a layer over that of the layer above.
        max_nonfinite_steps: more steps without a finite gradient, among a hundred, end the run.
        unread: judges the utterances that can't be read any more.
        keep: checkpoints that are kept, the best one among them; the last one in any case.
    """

    def __init__(
        self,
        *,
        criterion: Criterion,
        plan: Plan,
        train_dataset: Dataset,
        evaluator: Callable[[], dict[str, float]] | None = None,
        save_processor: Callable[[str], None] | None = None,
        schedule: Callable[[int], float] | None = None,
        layer_decay: float = 1.0,
        max_nonfinite_steps: int = 10,
        unread: SkippedAudio | None = None,
        keep: int = 2,
        **kwargs: Any,
    ) -> None:
        kwargs["args"].ddp_find_unused_parameters = False  # `anchor` leaves none unused
        one_gpu(kwargs["args"])
        super().__init__(keep=keep, save_processor=save_processor, train_dataset=train_dataset, **kwargs)
        if self.is_deepspeed_enabled:
            why = "DeepSpeed is not supported"
            raise UserError("distributed_type DEEPSPEED", why, "launch with configs/accelerate/fsdp.yaml")
        sharding.prepare(self)
        self.criterion, self.plan, self.utterances = criterion, plan, train_dataset
        self.evaluator = evaluator
        self.schedule, self.layer_decay = schedule, layer_decay
        self.model_accepts_loss_kwargs = False  # keeps the count of labels out of the model's forward
        self.loss_is_scaled_for_ga = True
        self.args.ignore_data_skip = True  # the plan goes on at the right place; the plain trainer would replay it
        self.sums: dict[str, torch.Tensor] = {}
        self.nonfinite_steps = NonfiniteSteps(self, max_nonfinite_steps)
        self.unread, self.asked, self.left_out = unread or SkippedAudio(max_share=1.0), 0, 0
        self.clock = time.monotonic()
        self.audio_seconds, self.training_seconds = 0.0, 0.0  # learnt from since the start or resumption, in what time

    # ---- data

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        if resume_from_checkpoint:
            checkpoint = Path(resume_from_checkpoint)
            state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE))
            self.plan.resume(checkpoint, state.global_step * self.args.gradient_accumulation_steps)
            self.begin_at(checkpoint, state)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except pickle.UnpicklingError as error:  # transformers reads with weights_only, which makes nothing but tensors
            why = "one of its *.pt and *.pth files isn't what a run writes; it may be made to do harm"
            raise UserError(f"{resume_from_checkpoint}", why, "go on from a checkpoint of your own") from error
        except BaseException as error:
            if isinstance(error, Stopped):  # trackers write their last lines
                self.callback_handler.on_train_end(self.args, self.state, self.control)
            let_go(error)
            lost = worker_error(error, self.args.dataloader_num_workers)
            if lost is not None:
                raise lost from error
            raise

    def get_train_dataloader(self) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return self.plan.loader(
            self.utterances,
            collate_fn=WithContents(self.data_collator),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=self.args.device.type == "cuda",
            worker_init_fn=leave_signals_to_the_trainer,
            generator=torch.Generator(),  # the loader draws a number: not from what dropout goes on with when resumed
        )

    # ---- loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        if not self.sums:  # the first step after a line of the log
            self.clock = time.monotonic()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.nonfinite_steps.begin(batches)
        for batch in batches:
            made_of = batch.pop(CONTENTS)
            self.left_out += made_of["left_out"]
            self.asked += made_of["left_out"] + len(made_of["ids"])
        count = sum(self.criterion.count(batch) for batch in batches)
        if self.accelerator.num_processes == 1:  # a number need not wait for the device
            return batches, max(1, count)
        return batches, self.accelerator.reduce(torch.tensor(count, device=device), "sum").clamp(min=1)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Raises UserError where a batch does not fit into memory."""
        try:
            loss = super().training_step(*args, **kwargs)
        except Exception as error:
            if not is_memory_error(error):
                raise
            given = f"a batch of step {self.state.global_step + 1}"
            do = (
                f"lower max_batch_seconds (now {self.plan.max_batch_seconds:g}), and resume where there is a checkpoint"
            )
            raise UserError(given, "it does not fit into memory", do) from error
        self.nonfinite_steps.step.losses.append(loss)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.nonfinite_steps.guard(norm)
        return norm

    def _prepare_input(self, data: Any) -> Any:
        """On its way to the device without waiting for what that has still to do; the loader pins its memory."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        summed = self.criterion.loss(model, inputs)
        for name, value in summed.figures.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        loss = summed.total + self.anchor(model)
        # DistributedDataParallel averages gradients over processes; their sum is wanted.
        return loss * self.accelerator.num_processes / num_items_in_batch

    def anchor(self, model: torch.nn.Module) -> torch.Tensor | float:
        """An exact zero that depends on every trained parameter.

        Under several processes each of them must get a gradient, or DistributedDataParallel waits forever for those of
        a layer that LayerDrop skipped (transformers#11452, #30113) or of a body that is not trained yet. Layers of a
        model in pieces (FSDP; their weights are no plain tensors here) see to it themselves.
        """
        if self.accelerator.num_processes == 1:
            return 0.0
        return sum(
            (p.sum() * 0.0 for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)),
            start=torch.zeros((), device=self.args.device),
        )

    # ---- optimizer and schedule

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = optimization.parameter_groups(
                [(name, p) for name, p in model.named_parameters() if p.requires_grad],
                freezing.head_names(self.accelerator.unwrap_model(model)),
                set(self.get_decay_parameter_names(model)),
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_decay=self.layer_decay,
            )
            self.optimizer = cls(groups, **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The learning rate is that of this run: one that went astray is resumed with a lower one."""
        optimizer: Any = self.optimizer
        rates = [group["initial_lr"] for group in optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        optimization.set_rates(self.lr_scheduler, rates)

    # ---- figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        done = self.state.global_step * self.args.gradient_accumulation_steps
        self.state.epoch = self.plan.epochs(done)
        if "loss" in logs and self.sums:
            names = sorted(self.sums)
            sums = self.accelerator.reduce(torch.stack([self.sums[name].double() for name in names]), "sum").tolist()
            logs |= self.criterion.report(dict(zip(names, sums, strict=True)))
            if "seconds" in names:
                audio, taken = sums[names.index("seconds")], time.monotonic() - self.clock
                logs["audio_seconds_per_second"] = audio / taken
                self.audio_seconds, self.training_seconds = self.audio_seconds + audio, self.training_seconds + taken
            self.sums = {}
            logs |= self.nonfinite_steps.figures() | self.unread_figures()
        super().log(logs, start_time)

    def unread_figures(self) -> dict[str, float]:
        """How many utterances couldn't be read since the last line of the log, on all processes, if any.

        Raises:
            UserError: too many.
        """
        counts = torch.tensor([self.asked, self.left_out], device=self.args.device)
        asked, left_out = self.accelerator.reduce(counts, "sum").tolist()
        self.asked, self.left_out = 0, 0
        self.unread.judge(asked, left_out)
        return {"left_out_utterances": left_out} if left_out else {}

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        if self.evaluator is None:
            return {}
        started = time.monotonic()
        if self.control.should_save:
            self._save_checkpoint(self.model, None)  # whatever ends the evaluation, this is kept
        with self.stop.at_once(), preserved_rng(self.args.device), sharding.whole(self):
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.evaluator().items()}
        self.log(metrics)
        if self.args.metric_for_best_model:  # the evaluator leaves out what is no number
            metrics.setdefault(self.args.metric_for_best_model, math.nan)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.clock += time.monotonic() - started  # training speed is that of training
        return metrics


def one_gpu(args: TrainingArguments) -> None:
    """Keeps a process that was started without a launcher from torch's DataParallel, which cuts batches in pieces."""
    if args.n_gpu > 1:
        logger.warning("%d GPUs, of which one is used: start with `accelerate launch` to use all", args.n_gpu)
        args._n_gpu = 1


def is_memory_error(error: Exception) -> bool:
    """Memory that ran short, in the words of torch's allocators and of Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
