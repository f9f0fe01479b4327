"""What a run says while it goes on."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from functools import partialmethod
from typing import Any

from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)

SHOWN = {
    "loss": "loss {:.3f}",
    "learning_rate": "lr {:.2e}",
    "audio_seconds_per_second": "{:.0f} audio s/s",
    "blank_share": "blank {:.0%}",
    "grad_norm": "grad {:.2f}",
}


class Progress(ProgressCallback):
    """The bar shows the last figures; evaluations get a line of their own. Without a terminal, every log is a line."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.current_step = self.first_step = state.global_step
        self.began = time.monotonic()
        transformers_logging.disable_progress_bar()  # those of every save would run through ours
        if state.is_world_process_zero:
            bar: Any = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True, disable=None)
            self.training_bar = bar

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.training_bar is None:
            return
        evaluated = {key: value for key, value in logs.items() if key.startswith("eval_") and isinstance(value, float)}
        if evaluated:
            said = ", ".join(f"{key.removeprefix('eval_')} {value:.4f}" for key, value in evaluated.items())
            self.training_bar.write(f"step {state.global_step}, epoch {state.epoch:.2f}: {said}", file=sys.stderr)
        elif "loss" in logs:
            said = ", ".join(text.format(logs[key]) for key, text in SHOWN.items() if key in logs)
            if self.training_bar.disable:
                print(f"step {state.global_step}/{state.max_steps}, {said}, {self.left(state)} left", file=sys.stderr)
            else:
                self.training_bar.set_postfix_str(said)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_bar is not None:  # a run that is stopped while it loads a checkpoint has none yet
            super().on_train_end(args, state, control, **kwargs)
        transformers_logging.enable_progress_bar()

    def left(self, state: Any) -> str:
        """Time to the end of the run at its pace so far, evaluations and all."""
        pace = (time.monotonic() - self.began) / max(1, state.global_step - self.first_step)
        return str(timedelta(seconds=round(pace * (state.max_steps - state.global_step))))


class Tolerated(TrainerCallback):
    """A tracker that can't end the run: when it first fails it is said, and from then on it is left alone.

    But for its start: who asks for a tracker that can't be had is told before step 1.
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
            logger.warning("%s failed (%s: %s); the run goes on without it", name, type(error).__name__, error)
            self.tracker = None


for _event in [name for name in vars(TrainerCallback) if name.startswith("on_")]:
    setattr(Tolerated, _event, partialmethod(Tolerated.pass_on, _event))


def tolerate_trackers(trainer: Trainer) -> None:
    for kind in get_reporting_integration_callbacks(trainer.args.report_to):
        tracker = trainer.pop_callback(kind)
        if tracker is not None:
            trainer.add_callback(Tolerated(tracker))


class EarlyStopping(EarlyStoppingCallback):
    """Ends a run whose metric no longer improves; a resumed run counts the evaluations before it too."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        before, metric, self.early_stopping_patience_counter = TrainerState(), args.metric_for_best_model, 0
        for value in (line[metric] for line in state.log_history if metric in line):
            self.check_metric_value(args, before, control, value)
            if self.early_stopping_patience_counter == 0:
                before.best_metric = value

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        super().on_evaluate(args, state, control, metrics, **kwargs)
        count = self.early_stopping_patience_counter
        if count >= self.early_stopping_patience and state.global_step < state.max_steps:
            logger.info("step %d: no improvement in %d evaluations, training ends early", state.global_step, count)


class BlankAdvice(TrainerCallback):
    """Says what a silent model means: CTC learns the blank first, and many give up there (transformers#12956)."""

    SILENT = 0.995  # share of blank frames; read speech in characters has 0.6 to 0.85

    def __init__(self) -> None:
        self.since: int | None = None
        self.said = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        share = (logs or {}).get("blank_share")
        if share is None or self.said:
            return
        if share < self.SILENT:
            self.since = None
            return
        self.since = state.global_step if self.since is None else self.since
        if state.global_step - self.since >= max(500, state.max_steps // 10):
            self.said = True
            logger.warning(
                "only blanks for %d steps (loss %.2f). A few hundred are usual; after that: is the learning rate high "
                "enough, do transcripts fit their audio, does the checkpoint have pretrained weights?",
                state.global_step - self.since,
                logs["loss"],
            )
