"""What a run tells of silence, of divergence, of trackers that fail, and of an end before its beginning."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState

from sft_speech.training.callbacks import BlankAdvice, Divergence, Progress, Tolerated


def test_a_run_that_is_stopped_before_it_trains_has_no_bar_to_close():
    """As by a signal while the state of the optimizer is read."""
    progress, state = Progress(), TrainerState(is_world_process_zero=True, max_steps=3)
    progress.on_train_end(None, state, TrainerControl())
    assert progress.training_bar is None
    progress.on_train_begin(None, state, TrainerControl())
    assert progress.training_bar is not None
    progress.on_train_end(None, state, TrainerControl())
    assert progress.training_bar is None


class Full(TrainerCallback):
    """A tracker that has no room left, and counts how often it was asked."""

    asked = 0

    def on_log(self, args, state, control, **kwargs):
        self.asked += 1
        raise OSError(28, "No space left on device")

    def on_train_begin(self, args, state, control, **kwargs):
        raise ConnectionError("no such account")


def test_a_tracker_that_fails_is_left_alone(caplog):
    full, control = Full(), TrainerControl()
    tracker = Tolerated(full)
    for _ in range(3):
        assert tracker.on_log(None, TrainerState(), control, logs={"loss": 1.0}) is None
    assert full.asked == 1
    (said,) = caplog.messages
    assert said.startswith("Full failed (OSError: [Errno 28] No space left on device); the run continues without it")


def test_a_tracker_that_cannot_be_had_ends_the_run_before_step_1():
    with pytest.raises(ConnectionError):
        Tolerated(Full()).on_train_begin(None, TrainerState(), TrainerControl())


def test_advice_on_a_model_that_stays_silent(caplog):
    advice, state = BlankAdvice(), TrainerState(max_steps=2000)
    for step, share in ((100, 1.0), (200, 0.9), (300, 0.999), (700, 1.0)):
        state.global_step = step
        advice.on_log(None, state, None, {"blank_share": share, "loss": 2.9})
    assert not caplog.records
    for state.global_step in (800, 900):
        advice.on_log(None, state, None, {"blank_share": 1.0, "loss": 2.9})
    (said,) = caplog.messages
    assert "only blanks for 500 steps (loss 2.90)" in said


ARGUMENTS = SimpleNamespace(learning_rate=1e-3)


def logged(*losses: float, every: int = 10, max_steps: int | None = None) -> TrainerState:
    """The state of a trainer after lines of the log; that of a run that is done."""
    lines = [{"loss": loss, "step": every * number} for number, loss in enumerate(losses, start=1)]
    step = every * len(losses)
    return TrainerState(log_history=lines, global_step=step, max_steps=max_steps or step)


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([12.0, 3.1, 2.9, 2.9, 2.9, 2.88, 2.9], False),  # the plateau of CTC
        ([12.0, 3.1, 800.0, 2.9, 3.0, 2.9, 2.9], False),  # a bad batch
        ([0.5, 0.02, 0.3, 0.4, 0.3, 0.25], False),  # ups and downs below the beginning
        ([0.5, 0.6, 0.7, 0.9, 1.2], False),  # not better, but no explosion
        ([12.0, 3.1, 40.0, 900.0, 53123.0], True),
        ([12.0, 130.0, 125.0, 140.0], True),  # from the start
        ([12.0, 130.0, 125.0], False),  # too early to say
        ([12.0, 3.1, 40.0, math.nan, 900.0, 53123.0], True),
        ([math.inf, 3.1, 3.0, 2.9, 2.9], False),
    ],
)
def test_what_a_divergence_is(losses, diverged):
    assert Divergence.diverged(losses) is diverged


def test_a_divergence_is_told_once_with_what_to_try(caplog):
    watch, losses = Divergence(), [12.0, 3.1, 40.0, 900.0, 5000.0, 53123.0, 60000.0]
    for count in range(1, len(losses) + 1):
        watch.on_log(ARGUMENTS, logged(*losses[:count], max_steps=100), None, {"loss": losses[count - 1]})
    watch.on_log(ARGUMENTS, logged(*losses), None, {"eval_loss": 1.0})
    (message,) = caplog.messages
    assert message.startswith("training diverges: loss 5000 at step 50, 12 in the first log line.")
    assert "lower learning_rate (now 1.00e-03 at its peak) or a longer warm-up" in message


def test_one_of_several_processes_tells_it(caplog):
    state = logged(12.0, 3.1, 40.0, 900.0, 5000.0)
    state.is_world_process_zero = False
    Divergence().on_log(ARGUMENTS, state, None, {"loss": 5000.0})
    Divergence().on_train_end(ARGUMENTS, state, TrainerControl())
    assert not caplog.messages


def test_a_run_that_ended_worse_than_it_began_says_so(caplog):
    watch = Divergence()
    for fine in (logged(12.0, 3.1, 2.9), logged(1.0), logged(1.0, 1.2), logged(12.0, 5e4, 6e4, max_steps=1000)):
        watch.on_train_end(ARGUMENTS, fine, TrainerControl())
    assert not caplog.messages
    worse = logged(12.0, 3.1, 900.0, 4e4, 3.0, 53123.0)
    watch.on_train_end(ARGUMENTS, worse, TrainerControl())
    worse.best_global_step, worse.best_model_checkpoint = 20, "out/checkpoint-20"
    watch.on_train_end(ARGUMENTS, worse, TrainerControl())
    begin = "training ended worse than it began (loss 4e+04, first 12); the model is that of "
    assert caplog.messages[0].startswith(begin + "the last step.")
    assert caplog.messages[1].startswith(begin + "step 20, the best evaluation.")


def test_a_model_that_diverged_gets_no_advice_on_its_blanks(caplog):
    advice = BlankAdvice()
    for lines in range(4, 30):
        state = logged(12.0, 3.1, *[5e4] * lines, every=100, max_steps=3000)
        advice.on_log(ARGUMENTS, state, None, {"blank_share": 1.0, "loss": 5e4})
    assert not caplog.messages
