"""Callbacks that inform the user while a run trains."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from datetime import timedelta
from functools import partialmethod
from typing import Any

from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback, get_reporting_integration_callbacks
from transformers.trainer_callback import ProgressCallback

from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)

SHOWN = {
    "loss": "loss {:.3f}",
    "learning_rate": "lr {:.2e}",
    "audio_seconds_per_second": "{:.0f} audio s/s",
    "blank_share": "blank {:.0%}",
    "grad_norm": "grad {:.2f}",
}


class Progress(ProgressCallback):
    """Shows the latest figures in a bar and each evaluation on a line; without a terminal, all logs are lines."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.current_step = self.first_step = state.global_step
        if state.is_world_process_zero:
            bar: Any = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True, disable=None)
            self.training_bar = bar

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.first_step:  # the time before that, for an evaluation, says nothing about the pace
            self.began = time.monotonic()
            if self.training_bar is not None:
                self.training_bar.unpause()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.training_bar is None:
            return
        evaluated = {key: value for key, value in logs.items() if key.startswith("eval_") and isinstance(value, float)}
        if evaluated:
            figures = ", ".join(f"{key.removeprefix('eval_')} {value:.4f}" for key, value in evaluated.items())
            self.training_bar.write(f"step {state.global_step}, epoch {state.epoch:.2f}: {figures}", file=sys.stderr)
        elif "loss" in logs:
            figures = ", ".join(text.format(logs[key]) for key, text in SHOWN.items() if key in logs)
            if self.training_bar.disable:
                line = f"step {state.global_step}/{state.max_steps}, {figures}, {self.left(state)} left"
                print(line, file=sys.stderr)
            else:
                self.training_bar.set_postfix_str(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_bar is not None:  # a run stopped while loading a checkpoint has no bar yet
            super().on_train_end(args, state, control, **kwargs)

    def left(self, state: Any) -> str:
        """Return the time left at the pace of this run so far, evaluations included."""
        pace = (time.monotonic() - self.began) / max(1, state.global_step - self.first_step)
        return str(timedelta(seconds=round(pace * (state.max_steps - state.global_step))))


class Tolerated(TrainerCallback):
    """A tracker that cannot end the run: its first failure is logged, and it is not called again.

    The exception is a failure to start, which ends the run before step 1.
    """

    def __init__(self, tracker: TrainerCallback) -> None:
        self.tracker: TrainerCallback | None = tracker

    def pass_on(self, event: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self.tracker, event)(*args, **kwargs) if self.tracker else None
        except Exception as error:
            if event == "on_train_begin":
                raise
            name = type(self.tracker).__name__.removesuffix("Callback")
            logger.warning("%s failed (%s: %s); the run continues without it", name, type(error).__name__, error)
            self.tracker = None


for _event in [name for name in vars(TrainerCallback) if name.startswith("on_")]:
    setattr(Tolerated, _event, partialmethod(Tolerated.pass_on, _event))


def prepare_trackers(trainer: Trainer, board: str) -> None:
    """Make the trackers of a trainer tolerate errors, and give TensorBoard its folder."""
    for kind in get_reporting_integration_callbacks(trainer.args.report_to):
        tracker = trainer.pop_callback(kind)
        if tracker is not None:
            if isinstance(tracker, TensorBoardCallback):
                tracker.logging_dir = board  # not by its environment variable: it would stay for the next run
            trainer.add_callback(Tolerated(tracker))


class EarlyStopping(EarlyStoppingCallback):
    """Ends a run whose metric no longer improves; evaluations before a resumption count too.

    Args:
        patience: evaluations in a row without improvement.
        begins: step from which everything is trained; evaluations up to it do not count against the run.
    """

    def __init__(self, patience: int, begins: int = 0) -> None:
        super().__init__(early_stopping_patience=patience)
        self.begins = begins

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        before, metric, self.early_stopping_patience_counter = TrainerState(), args.metric_for_best_model, 0
        # The starting checkpoint, step 0, is not a candidate for the best one.
        for line in (line for line in state.log_history if metric in line and line["step"] > 0):
            self.check_metric_value(args, before, control, line[metric])
            if self.early_stopping_patience_counter == 0:
                before.best_metric = line[metric]
            if line["step"] <= self.begins:
                self.early_stopping_patience_counter = 0

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        stopping = control.should_training_stop
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if state.global_step <= self.begins:
            self.early_stopping_patience_counter, control.should_training_stop = 0, stopping
        count = self.early_stopping_patience_counter
        if count >= self.early_stopping_patience and state.global_step < state.max_steps:
            logger.info(
                "step %d: no improvement in %s, training ends early", state.global_step, counted(count, "evaluation")
            )


class Divergence(TrainerCallback):
    """Warns once when training diverges, and at the end if training ended worse than it began.

    Each log line is compared with the first one, a mean over the first steps. Training has diverged when the loss of
    :data:`LINES` lines in a row is above the first and above :data:`FACTOR` times the lowest; a single bad batch does
    not count as divergence, nor does noise on a plateau. Lines with a non-finite loss are ignored: those steps are
    skipped and handled by :mod:`~sft_speech.training.nonfinite_steps`.
    """

    LINES, FACTOR = 3, 10.0
    WORSE = 1.5  # median of the last lines over the first one

    def __init__(self) -> None:
        self.warned = False

    @classmethod
    def diverged(cls, losses: list[float]) -> bool:
        """Return whether the last lines of a log show divergence."""
        lines = [loss for loss in losses if math.isfinite(loss)]
        return len(lines) > cls.LINES and min(lines[-cls.LINES :]) > max(lines[0], cls.FACTOR * min(lines))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}) or self.warned or not state.is_world_process_zero:
            return
        if not self.diverged(losses_of(state)):
            return
        self.warned = True
        logger.warning(
            "training diverges: loss %.4g at step %d, %.4g in the first log line. Stop the run and start it "
            "with a lower learning_rate (now %.2e at its peak) or a longer warm-up (warmup_steps), or resume from a "
            "checkpoint before this with a lower learning_rate",
            *(logs["loss"], state.global_step, losses_of(state)[0], args.learning_rate),
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        lines = [loss for loss in losses_of(state) if math.isfinite(loss)]
        ended = state.global_step >= state.max_steps or control.should_training_stop  # otherwise it can be resumed
        if not ended or len(lines) < 2 or not state.is_world_process_zero:
            return
        last = statistics.median(lines[1:][-self.LINES :])
        if last > self.WORSE * lines[0]:
            best = state.best_model_checkpoint
            logger.warning(
                "training ended worse than it began (loss %.4g, first %.4g); the model is that of %s. Try a lower "
                "learning_rate or a longer warm-up",
                *(last, lines[0], f"step {state.best_global_step}, the best evaluation" if best else "the last step"),
            )


def losses_of(state: Any) -> list[float]:
    """Return the training losses logged so far."""
    return [entry["loss"] for entry in state.log_history if "loss" in entry]


class BlankAdvice(TrainerCallback):
    """Gives advice when a model outputs only blanks: CTC learns the blank first, and many users give up at that point
    (transformers#12956).
    """

    SILENT = 0.995  # share of blank frames; 0.6 to 0.85 is normal for read speech and a character vocabulary

    def __init__(self) -> None:
        self.since: int | None = None
        self.warned = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        share = (logs or {}).get("blank_share")
        if share is None or self.warned or not state.is_world_process_zero:
            return
        if share < self.SILENT or Divergence.diverged(losses_of(state)):  # divergence has its own warning
            self.since = None
            return
        self.since = state.global_step if self.since is None else self.since
        if state.global_step - self.since >= max(500, state.max_steps // 10):
            self.warned = True
            logger.warning(
                "only blanks for %d steps (loss %.2f). A few hundred are usual; after that: is the learning rate high "
                "enough, do transcripts match their audio, does the checkpoint have pretrained weights?",
                state.global_step - self.since,
                logs["loss"],
            )
