"""How a run stops when it is asked to, and what it says of silence."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from sft_speech.training.callbacks import BlankAdvice, StopWhenAsked

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


@pytest.fixture
def asked_to_stop():
    """One that has just got SIGTERM; the signals are as they were afterwards."""
    stop, before = StopWhenAsked(ALONE), signal.getsignal(signal.SIGTERM)
    stop.on_train_begin(None, None, None)
    os.kill(os.getpid(), signal.SIGTERM)
    yield stop
    stop.on_train_end(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("kept", "then"), [(1, 2), (3, 3)])
def test_it_saves_and_the_checkpoint_outlives_the_end(asked_to_stop, kept, then):
    """With one checkpoint kept, the plain trainer deletes at its end what isn't the best one."""
    control, arguments = TrainerControl(), SimpleNamespace(save_total_limit=kept)
    asked_to_stop.on_step_end(arguments, TrainerState(global_step=7), control)
    assert (control.should_save, control.should_training_stop, asked_to_stop.stopped) == (True, True, True)
    assert arguments.save_total_limit == then


def test_asked_twice_it_stops_at_once(asked_to_stop):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


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
