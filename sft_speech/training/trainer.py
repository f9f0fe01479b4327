"""An exact Hugging Face Trainer: the same loss under any split of the batch, planned batches, complete checkpoints."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import TrainOutput

from sft_speech.errors import Stopped, UserError
from sft_speech.models.adapt import head_names
from sft_speech.models.families import family_of
from sft_speech.models.parts import depths_of
from sft_speech.models.unfreezing import Unfreezing
from sft_speech.training import optimization, sharding
from sft_speech.training.by_source import BySource
from sft_speech.training.callbacks import Divergence
from sft_speech.training.log_interval import LogInterval, peak_bytes, reset_peak
from sft_speech.training.loss import Criterion, StepCriterion
from sft_speech.training.nonfinite_steps import NonfiniteSteps
from sft_speech.training.plan import Plan
from sft_speech.training.saving import SavingTrainer, preserved_rng
from sft_speech.training.skipped_audio import CONTENTS, SkippedAudio, WithContents
from sft_speech.training.workers import leave_signals_to_the_trainer, let_go, worker_error

logger = logging.getLogger(__name__)

# All private names that this package uses, of those in transformers' Trainer and TrainingArguments, and why.
PRIVATE_NAMES = {
    "_save_checkpoint": "a checkpoint has to be saved before the evaluation, sealed, and rotated after it",
    "_determine_best_metric": "the evaluation of a resumed checkpoint counts as one after a step",
    "_load_best_model": "if the best checkpoint is damaged, the next best one is loaded",
    "_get_grad_norm": "the norm before clipping decides whether the optimizer takes the step; no callback is given it",
    "_attn_implementation": "only eager attention returns its weights, and what a model uses now has no public name",
    "_n_gpu": "one process uses one GPU; the plain Trainer would cut batches in pieces for DataParallel",
}

# Texts in errors of memory that is not managed by torch's allocators: of the CPU, CUDA, cuBLAS and cuDNN.
MEMORY_ERRORS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


class ExactTrainer(SavingTrainer):
    """A :class:`transformers.Trainer` with these differences:

    - The loss of an optimizer step is the sum over its utterances, on all micro-batches and processes, over one count.
      The plain Trainer wrongly assumes that CTC losses are normalized by the step's count, so that gradients grow with
      accumulation and processes (transformers#47688).
    - Batches come from a :class:`Plan` over the whole run; a resumed run continues with the very next batch.
    - Evaluation is a function of the task, such as a word error rate; the plain Trainer gathers logits.
    - A step with a non-finite gradient is skipped (:mod:`~sft_speech.training.nonfinite_steps`).
    - A checkpoint is verified to be complete before older ones are removed (:class:`SavingTrainer`).

    Args:
        criterion: the loss and its figures.
        plan: the batches of this process in the whole run.
        train_dataset: makes the utterances of the plan.
        evaluator: returns the metrics of the evaluation split, the same on every process.
        save_processor: writes the files that accompany the weights into a directory.
        schedule: factor on the learning rate by step, or None for the one that ``args`` names.
        layer_decay: ratio of a layer's learning rate to that of the layer above.
        unfreezing: the parts that are trained only from some step on; None: everything is from the start.
        max_nonfinite_steps: the run ends when more of a hundred steps have a non-finite gradient.
        skipped_audio: judges whether too many utterances can no longer be read.
        keep: checkpoints to keep, including the best one; the last one is always kept.
        sources: names of the corpora of a mix, whose losses are logged, see
            :class:`~sft_speech.training.by_source.BySource`.
    """

    def __init__(
        self,
        *,
        criterion: Criterion,
        plan: Plan,
        train_dataset: Dataset,
        evaluator: Callable[[], dict[str, float]] | None = None,
        save_processor: Callable[[str], None] | None = None,
        schedule: Callable[[float], float] | None = None,
        layer_decay: float = 1.0,
        unfreezing: Unfreezing | None = None,
        max_nonfinite_steps: int = 10,
        skipped_audio: SkippedAudio | None = None,
        keep: int = 2,
        sources: Sequence[str] = (),
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
        self.evaluator, self.by_source = evaluator, BySource(sources)
        self.schedule, self.layer_decay, self.scheduled_steps = schedule, layer_decay, self.args.max_steps
        self.model_accepts_loss_kwargs = False  # keeps the count of labels out of the model's forward
        self.loss_is_scaled_for_ga = True
        self.args.ignore_data_skip = True  # the plan resumes at the right place; the plain Trainer would replay it
        self.nonfinite_steps = NonfiniteSteps(self, max_nonfinite_steps)
        self.skipped_audio = skipped_audio or SkippedAudio(max_share=1.0)
        self.audio_seconds, self.training_seconds = 0.0, 0.0  # since the start or resumption
        self.add_callback(Divergence())
        self.unfreezing = unfreezing
        if unfreezing is not None:
            self.add_callback(unfreezing)

    # ---- data

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        self.resumed_from = None
        if isinstance(resume_from_checkpoint, str):
            self.resume_at(Path(resume_from_checkpoint))
        reset_peak()
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except pickle.UnpicklingError as error:  # transformers loads with weights_only, which refuses other objects
            why = "one of its *.pt and *.pth files isn't what a run writes; it may be malicious"
            raise UserError(f"{resume_from_checkpoint}", why, "resume from a checkpoint of your own") from error
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
            generator=torch.Generator(),  # so that the loader does not draw from the global state, which dropout uses
        )

    # ---- loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        self.interval.begin_step()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.nonfinite_steps.begin(batches)
        for batch in batches:
            contents = batch.pop(CONTENTS)
            self.interval.skipped += contents["skipped"]
            self.interval.utterances += contents["skipped"] + len(contents["ids"])
            self.interval.add(self.by_source.begin(batch, contents["ids"], self.criterion, device))
        count, alone = sum(self.criterion.count(batch) for batch in batches), self.accelerator.num_processes == 1
        if isinstance(self.criterion, StepCriterion):
            summed = None if alone else lambda tensor: self.accelerator.reduce(tensor, "sum")
            with self.compute_loss_context_manager():
                self.criterion.begin_step(self.model_wrapped, batches, device, summed)
        if alone:  # no need to wait for the device
            return batches, count or 1
        total = self.accelerator.reduce(torch.tensor(count, device=device, dtype=torch.double), "sum").float()
        return batches, torch.where(total > 0, total, 1.0)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Train on a batch; raise UserError if it does not fit into memory."""
        # The loader pins memory, so that the copy need not wait for pending work on the device.
        inputs = send_to_device(inputs, self.args.device, non_blocking=True)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except Exception as error:
            if not is_memory_error(error):
                raise
            given = f"a batch of step {self.state.global_step + 1}"
            do = f"lower max_batch_seconds (now {self.plan.max_batch_seconds:g}), and resume if there is a checkpoint"
            raise UserError(given, "it does not fit into memory", do) from error
        if self.unfreezing is not None:
            self.unfreezing.drop_gradients(self.accelerator.unwrap_model(model))
        self.interval.loss = self.interval.loss + loss
        self.nonfinite_steps.step.losses.append(loss)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.nonfinite_steps.guard(norm)
        return norm

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        inputs, sources = self.by_source.taken(inputs)
        summed = self.criterion.loss(model, inputs)
        self.interval.add(summed.figures | self.by_source.losses(summed, sources))
        loss = summed.total
        # LayerDrop may skip all layers with trained weights, if only some are trained.
        if self.accelerator.num_processes > 1 or not loss.requires_grad:
            loss = loss + self.anchor(model)
        # DistributedDataParallel averages gradients over processes; we want their sum.
        return loss * self.accelerator.num_processes / num_items_in_batch

    def anchor(self, model: torch.nn.Module) -> torch.Tensor:
        """Return an exact zero that depends on every trained parameter.

        With several processes, each parameter must get a gradient, or DistributedDataParallel waits forever for those
        of a layer that LayerDrop skipped (transformers#11452, #30113) or of a body that is not trained yet. The layers
        of a sharded model (FSDP, with DTensor weights) do this themselves.
        """
        return sum(
            (p.sum() * 0.0 for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)),
            start=torch.zeros((), device=self.args.device),
        )

    # ---- optimizer and schedule

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, trained)
            plain = self.accelerator.unwrap_model(trained)
            groups = optimization.parameter_groups(
                [(name, p) for name, p in trained.named_parameters() if p.requires_grad],
                depths_of(dict(trained.named_parameters()), head_names(plain), family_of(plain.config)),
                # DoRA's norms of weights are norms like any others
                {name for name in self.get_decay_parameter_names(trained) if "lora_magnitude" not in name},
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                layer_decay=self.layer_decay,
            )
            self.optimizer = cls(groups, **kwargs)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        used: Any = self.optimizer if optimizer is None else optimizer
        if self.schedule is None:
            scheduler = super().create_scheduler(num_training_steps, used)
        else:
            factor = optimization.stretched(self.schedule, self.scheduled_steps, num_training_steps)
            scheduler = self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(used, factor)
        self.peak_rates = [group["initial_lr"] for group in used.param_groups]
        return scheduler

    # ---- figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.state.epoch = self.plan.epochs(self.state.global_step * self.args.gradient_accumulation_steps)
        if "loss" in logs:
            logs |= self.interval_figures()
        super().log(logs, start_time)

    def interval_figures(self) -> dict[str, float]:
        """Return what all processes measured since the last log line, and begin the next interval.

        Raises:
            UserError: too many utterances could not be read, or too many gradients were not finite.
        """
        interval, self.interval = self.interval, LogInterval()
        names = sorted(interval.sums)
        given = [interval.loss, interval.utterances, interval.skipped, *(interval.sums[name] for name in names)]
        values = [torch.as_tensor(value, device=self.args.device).double() for value in given]
        flat = self.accelerator.reduce(torch.cat([value.flatten() for value in values]), "sum").cpu()
        parts = flat.split([value.numel() for value in values])
        loss, utterances, skipped, *sums = (
            part.view_as(value).tolist() for part, value in zip(parts, values, strict=True)
        )
        totals = dict(zip(names, sums, strict=True))
        figures = {"loss": loss / self.accelerator.num_processes / interval.steps} | self.criterion.report(totals)
        figures |= self.by_source.report(totals)
        if "seconds" in totals:
            taken = interval.seconds()
            figures["audio_seconds_per_second"] = totals["seconds"] / taken
            self.audio_seconds += totals["seconds"]
            self.training_seconds += taken
            figures |= {"seconds_per_update": taken / interval.steps, "peak_bytes": peak_bytes()}
            if self.args.device.type == "cpu":  # other work on the machine hardly changes it
                figures["cpu_seconds_per_update"] = interval.cpu_seconds() / interval.steps
        figures |= self.nonfinite_steps.figures()
        self.skipped_audio.judge(int(utterances), int(skipped))
        return figures | ({"left_out_utterances": int(skipped)} if skipped else {})

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        if self.evaluator is None:
            return {}
        started, cpu_started = time.monotonic(), time.process_time()
        if self.control.should_save:
            self._save_checkpoint(self.model, None)  # before the evaluation, in case that fails
        with self.stop.at_once(), preserved_rng(self.args.device), sharding.whole(self):
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.evaluator().items()}
        self.log(metrics)
        if self.args.metric_for_best_model:  # the evaluator leaves out NaN
            metrics.setdefault(self.args.metric_for_best_model, math.nan)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.evaluation_due:
            self.complete_evaluation(metrics)
        self.interval.leave_out(time.monotonic() - started, time.process_time() - cpu_started)
        return metrics


def one_gpu(args: TrainingArguments) -> None:
    """Keep a process that was started without a launcher from using torch's DataParallel, which splits batches."""
    if args.n_gpu > 1:
        logger.warning("there are %d GPUs, but only one is used: --num_processes %d uses all", args.n_gpu, args.n_gpu)
        args._n_gpu = 1


def is_memory_error(error: Exception) -> bool:
    """Return whether an error of torch or Python means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_ERRORS)
