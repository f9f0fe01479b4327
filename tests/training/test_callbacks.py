"""What a run says of silence, of trackers that fail, and of an end before its beginning."""

from __future__ import annotations

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState

from sft_speech.training.callbacks import BlankAdvice, Progress, Tolerated


def test_a_run_that_is_stopped_before_it_trains_has_no_bar_to_close():
    """As by a signal while the state of the optimizer is read."""
    Progress().on_train_end(None, TrainerState(is_world_process_zero=True), TrainerControl())


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
    assert said.startswith("Full failed (OSError: [Errno 28] No space left on device); the run goes on without it")


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
