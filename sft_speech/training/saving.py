"""The Hugging Face Trainer with complete checkpoints and bit-exact resumption."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME

from sft_speech.files import honour_umask
from sft_speech.training import checkpoints, optimization, sharding
from sft_speech.training.log_interval import LogInterval
from sft_speech.training.nonfinite_steps import NonfiniteSteps
from sft_speech.training.plan import Plan
from sft_speech.training.start import from_main
from sft_speech.training.stop import Stop

logger = logging.getLogger(__name__)

RESUME = "resume with --resume_from_checkpoint auto"


class SavingTrainer(Trainer):
    """A :class:`transformers.Trainer` with these differences:

    - A checkpoint is verified to be complete. The plain Trainer resumes from a half-written one.
    - It is saved before it is evaluated, so that no training is lost if the evaluation fails. A resumed run catches up
      on the evaluation.
    - Older checkpoints are removed only once the new one is complete; the plain Trainer removes them earlier.
    - Log lines are means over the same steps, however often the run was interrupted.

    Args:
        keep: checkpoints to keep, including the best one; the last one is always kept.
        save_processor: writes the files that accompany the weights into a directory.

    Attributes:
        stop: ends the run on a signal.
        before_saving: called on the main process to make sure that the output directory exists.
    """

    # set by :class:`ExactTrainer`
    plan: Plan
    nonfinite_steps: NonfiniteSteps
    evaluator: Callable[[], dict[str, float]] | None
    peak_rates: list[float]  # learning rate of each group of weights, at the peak of this run's schedule

    def __init__(self, *, keep: int, save_processor: Callable[[str], None] | None, **kwargs: Any) -> None:
        kwargs["args"].save_total_limit = None  # `checkpoints.rotate` does it, after the evaluation
        super().__init__(**kwargs)
        self.keep, self.save_processor = keep, save_processor
        self.folder = Path(self.args.output_dir or ".")
        self.interval = LogInterval()
        self.stop = Stop(PartialState())
        self.before_saving: Callable[[], None] = lambda: None
        self.saved: Path | None = None  # the checkpoint of the current step, if there is one
        self.resumed_from: Path | None = None
        self.evaluation_due = False
        self.add_callback(Resumption(self))

    # ---- save

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint; if the current step already has one, add the result of its evaluation.

        Raises:
            UserError: the disk cannot be written. The partial checkpoint is removed, the one before it stays.
        """
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        if self.saved != folder:
            self.save_whole(folder, model, trial)
            self.saved = folder
        if self.control.should_evaluate:
            return
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder)
        if self.is_world_process_zero():
            with checkpoints.disk_errors(folder, RESUME):
                checkpoints.evaluated(folder, self.state, self.control)
                checkpoints.rotate(self.folder, self.keep, self.state.best_model_checkpoint)

    def save_whole(self, folder: Path, model: Any, trial: Any) -> None:
        """Write a checkpoint and seal it; all processes must call it."""
        processes = PartialState()
        self.nonfinite_steps.check_weights()
        sharding.complete_state(self)
        if processes.is_main_process:
            self.before_saving()
        with checkpoints.disk_errors(folder, RESUME):
            try:
                checkpoints.begin(folder, processes)
                super()._save_checkpoint(model, trial)
                self.plan.save(folder, self.state.global_step * self.args.gradient_accumulation_steps)
                self.interval.save(folder, processes.process_index, processes.num_processes)
                checkpoints.seal(folder, processes)
            except Exception as error:
                if checkpoints.is_disk_error(error):
                    checkpoints.remove(folder)
                raise
        self.stop.saved = self.state.global_step

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Save the model with its processor; all processes must call it."""
        folder = Path(output_dir or self.folder)
        super().save_model(str(folder), *args, **kwargs)
        if not self.args.should_save or not folder.is_dir():  # FSDP writes its shards elsewhere
            return
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing needs, with local paths
        honour_umask(folder)
        if self.save_processor is not None:
            self.save_processor(str(folder))

    # ---- resume

    def resume_at(self, checkpoint: Path) -> None:
        """Prepare to resume from a checkpoint, before training starts."""
        state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE))
        accumulation = self.args.gradient_accumulation_steps
        self.plan.resume(checkpoint, state.global_step * accumulation)
        self.args.max_steps = self.plan.batches // accumulation  # it depends on the number of processes
        self.saved = self.folder / checkpoint.name if checkpoint.resolve().parent == self.folder.resolve() else None
        self.evaluation_due = self.evaluator is not None and checkpoints.awaits_evaluation(state)
        self.args.eval_on_start = self.evaluation_due
        self.resumed_from = checkpoint

    def complete_evaluation(self, metrics: dict[str, float]) -> None:
        """Record the metrics of the checkpoint that the run resumed from, as the Trainer does after a step."""
        self.evaluation_due = False
        self._determine_best_metric(metrics, trial=None)
        if self.saved is not None:
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        elif self.state.best_global_step == self.state.global_step:  # the checkpoint is in another output directory
            self.state.best_model_checkpoint = str(self.resumed_from)

    # ---- end

    def _load_best_model(self) -> None:
        """Load the best complete checkpoint; if there is none, keep the final weights."""
        best, metric = Path(str(self.state.best_model_checkpoint)), str(self.args.metric_for_best_model)
        wrong = from_main(PartialState(), lambda: checkpoints.damage(best))
        if wrong is not None:
            history, highest = self.state.log_history, bool(self.args.greater_is_better)
            other = from_main(PartialState(), lambda: checkpoints.best_whole(self.folder, history, metric, highest))
            instead = other or "that of the last step"
            logger.warning("the best checkpoint, %s, cannot be used: %s; the model is %s", best, wrong, instead)
            if other is None:
                return
            self.state.best_model_checkpoint = str(other)
        super()._load_best_model()


class Resumption(TrainerCallback):
    """Restores what the Trainer does not restore from a checkpoint, before the first step."""

    def __init__(self, trainer: SavingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, processes = self.trainer, PartialState()
        if trainer.resumed_from is None:
            return
        best = trainer.folder / f"checkpoint-{state.best_global_step}"
        if best.is_dir():  # the output directory may have been moved
            state.best_model_checkpoint = str(best)
        # The learning rate of this run applies, not the saved one: a run that diverged is resumed with a lower one.
        optimization.set_rates(trainer.lr_scheduler, trainer.peak_rates)
        trainer.interval = LogInterval.load(
            trainer.resumed_from, processes.process_index, processes.num_processes, args.device
        )


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Restore the random states afterwards, so that evaluation does not affect training, even when it is cut short."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
