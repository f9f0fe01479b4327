"""How a run stops when it is asked to."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from sft_speech.errors import RESUMABLE, Stopped
from sft_speech.training.stop import SIGNALS, Stop

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def stop():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stop(ALONE) as stop:
        yield stop
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once_where_there_is_nothing_to_save(stop, number):
    with pytest.raises(Stopped) as ended:
        send(number)
    assert ended.value.code == RESUMABLE == 75
    send(signal.SIGTERM)  # disturbs the tidying up no more


def train(stop: Stop, *happens: str) -> list[str]:
    """What comes of a training in which this happens."""
    control, state, came = TrainerControl(), TrainerState(global_step=7), []
    steps = {
        "begin": lambda: stop.on_step_begin(None, state, control),
        "end": lambda: stop.on_step_end(None, state, control),
        "save": lambda: stop.on_save(None, state, control),
        "TERM": lambda: send(signal.SIGTERM),
    }
    try:
        with stop.training():
            for step in happens:
                steps[step]()
                came.append("saving" if control.should_save else step)
    except Stopped:
        came.append("stopped")
    return came


def test_in_training_after_the_step_and_its_checkpoint(stop):
    happens = ("begin", "end", "begin", "TERM", "TERM", "end", "save", "begin")
    assert train(stop, *happens) == ["begin", "end", "begin", "TERM", "TERM", "saving", "stopped"]


def test_in_training_but_before_its_first_step(stop):
    assert train(stop, "TERM", "begin") == ["stopped"]


def test_asked_when_the_last_step_is_done(stop):
    assert train(stop, "begin", "end", "TERM") == ["begin", "end", "TERM", "stopped"]


def test_at_once_in_evaluation(stop):
    stop.on_step_begin(None, None, None)
    with stop.at_once():
        pass
    send(signal.SIGTERM)  # waits again for the step
    with pytest.raises(Stopped), stop.at_once():
        pytest.fail("it went on")


def test_ctrl_c_twice_stops_at_once(stop):
    stop.on_step_begin(None, None, None)
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
