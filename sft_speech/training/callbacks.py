"""What a run says while it goes on, and how it stops when asked to."""

from __future__ import annotations

import logging
import signal
import sys
import time
from datetime import timedelta
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback
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
        super().on_train_end(args, state, control, **kwargs)
        transformers_logging.enable_progress_bar()

    def left(self, state: Any) -> str:
        """Time to the end of the run at its pace so far, evaluations and all."""
        pace = (time.monotonic() - self.began) / max(1, state.global_step - self.first_step)
        return str(timedelta(seconds=round(pace * (state.max_steps - state.global_step))))


class StopWhenAsked(TrainerCallback):
    """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint; a second Ctrl-C ends it at once.

    With several processes all must stop at the same step, or they wait for each other forever: they agree on it after
    every step, since their launcher gives them 30 s from the signal to the end.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator, self.asked, self.stopped = accelerator, False, False
        self.before: dict[int, Any] = {}

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            self._restore()
            raise KeyboardInterrupt
        self.asked = True
        if self.accelerator.is_main_process:
            print("\nstopping after this step, with a checkpoint; once more stops at once", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stop = self.asked
        if self.accelerator.num_processes > 1:
            asked = torch.tensor(float(self.asked), device=self.accelerator.device)
            stop = bool(self.accelerator.reduce(asked, "sum") > 0)
        if stop:
            self.stopped = True
            control.should_save = control.should_training_stop = True
            if args.save_total_limit == 1:  # then the plain trainer, when it ends, keeps the best checkpoint alone
                args.save_total_limit = 2

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._restore()


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
