"""The Hugging Face Trainer with checkpoints to be trusted, from which a run goes on as if nothing had happened."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME

from sft_speech.training import checkpoints, sharding
from sft_speech.training.start import from_main
from sft_speech.training.stop import Stop

logger = logging.getLogger(__name__)

UNLOGGED = "unlogged_{}.pt"  # of a process in a checkpoint
GO_ON = "go on with --resume_from_checkpoint auto"


class SavingTrainer(Trainer):
    """Differs from :class:`transformers.Trainer` in this:

    - A checkpoint is known to be whole. The plain one takes what was killed half-way for a checkpoint.
    - It is saved before it is evaluated, so that whatever ends the evaluation costs no training; a resumed run makes up
      for it.
    - The one before it is deleted when it is whole; the plain trainer does that earlier.
    - Lines of the log are means over the same steps, however often the run was interrupted.

    Args:
        keep: checkpoints that are kept, the best one among them; the last one in any case.
        save_processor: writes what belongs beside the weights into a directory.

    Attributes:
        stop: ends the run when it is asked to.
        before_saving: sees that there is a directory to save into; called on the main process.
    """

    # of :class:`ExactTrainer`
    plan: Any
    nonfinite_steps: Any
    evaluator: Any
    sums: dict[str, torch.Tensor]
    clock: float
    asked: int
    left_out: int

    def __init__(self, *, keep: int, save_processor: Callable[[str], None] | None, **kwargs: Any) -> None:
        kwargs["args"].save_total_limit = None  # see `_save_checkpoint`
        super().__init__(**kwargs)
        self.keep, self.save_processor = keep, save_processor
        self.folder = Path(self.args.output_dir or ".")
        self.stop = Stop(PartialState())
        self.before_saving: Callable[[], None] = lambda: None
        self.saved: Path | None = None  # the checkpoint of the step at hand, where there is one
        self.evaluation_due = False

    def begin_at(self, checkpoint: Path, state: TrainerState) -> None:
        """Before training: goes on from a checkpoint, its state given."""
        self.saved = self.folder / checkpoint.name if checkpoint.resolve().parent == self.folder.resolve() else None
        self.evaluation_due = self.evaluator is not None and checkpoints.awaits_evaluation(state)

    # ---- to save

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves a checkpoint, or has the one that was saved before its evaluation say how that went.

        Raises:
            UserError: the disk does not take it. What was written of it is removed, the one before it stays.
        """
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        if self.saved != folder:
            self._save_whole(folder, model, trial)
            self.saved = folder
        if self.control.should_evaluate:
            return
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder)
        if self.is_world_process_zero():
            with checkpoints.disk_errors(folder, GO_ON):
                checkpoints.evaluated(folder, self.state, self.control)
                checkpoints.rotate(self.folder, self.keep, self.state.best_model_checkpoint)

    def _save_whole(self, folder: Path, model: Any, trial: Any) -> None:
        processes = PartialState()
        self.nonfinite_steps.check_weights()
        sharding.complete_state(self)
        if processes.is_main_process:
            self.before_saving()
        with checkpoints.disk_errors(folder, GO_ON):
            try:
                checkpoints.begin(folder, processes)
                super()._save_checkpoint(model, trial)
                checkpoints.seal(folder, processes)
            except Exception as error:
                if checkpoints.is_disk_error(error):
                    checkpoints.remove(folder)
                raise
        self.stop.saved = self.state.global_step

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle that nothing needs, with places on the disk.
        Path(output_dir or self.folder, TRAINING_ARGS_NAME).unlink(missing_ok=True)
        if self.save_processor is not None and self.args.should_save:
            self.save_processor(output_dir or str(self.folder))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.plan.save(Path(output_dir))
        unlogged = {  # what the next line of the log will be the mean of
            "world": self.accelerator.num_processes,
            "loss": self._tr_loss,
            "logged": self._globalstep_last_logged,
            "sums": self.sums,
            "seconds": time.monotonic() - self.clock,
            "utterances": [self.asked, self.left_out],
        }
        torch.save(unlogged, Path(output_dir) / UNLOGGED.format(self.accelerator.process_index))

    # ---- to go on

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        begun = super()._init_training_state(*args, **kwargs)
        best = self.folder / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():  # the directory may have been moved
            self.state.best_model_checkpoint = str(best)
        return begun

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self._load_unlogged(Path(checkpoint) / UNLOGGED.format(self.accelerator.process_index))
            self._evaluate_if_due()

    def _load_unlogged(self, file: Path) -> None:
        """With more or fewer processes than before, the next line of the log is about a part of its steps."""
        if not file.is_file():
            return
        kept = torch.load(file, map_location="cpu", weights_only=True)
        if kept["world"] == self.accelerator.num_processes:
            self._tr_loss, self._globalstep_last_logged = kept["loss"].to(self.args.device), kept["logged"]
            self.sums = {name: value.to(self.args.device) for name, value in kept["sums"].items()}
            self.clock = time.monotonic() - kept["seconds"]
            self.asked, self.left_out = kept["utterances"]

    def _evaluate_if_due(self) -> None:
        """Evaluates the checkpoint that the run is resumed from, where that was not done before it ended."""
        if self.evaluation_due:
            self.evaluation_due = False
            self.control.should_evaluate = self.control.should_save = True
            given: Any = (self._tr_loss, None, self.model, None, self.state.epoch, None, 0.0)
            self._maybe_log_save_evaluate(*given)

    # ---- to end

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._evaluate_if_due()  # it was that of the last step
        return super()._finalize_training(*args, **kwargs)

    def _load_best_model(self) -> None:
        """Of a best checkpoint that is damaged, the best one that isn't; without any, what training ended with."""
        best, metric = Path(str(self.state.best_model_checkpoint)), str(self.args.metric_for_best_model)
        wrong = from_main(PartialState(), lambda: checkpoints.damage(best))
        if wrong is not None:
            history = self.state.log_history
            other = from_main(PartialState(), lambda: checkpoints.best_whole(self.folder, history, metric))
            instead = other or "that of the last step"
            logger.warning("the best checkpoint, %s, can't be used: %s; the model is %s", best, wrong, instead)
            if other is None:
                return
            self.state.best_model_checkpoint = str(other)
        super()._load_best_model()


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Within, random numbers may be drawn that training goes on without: an evaluation cut short changes nothing."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
