"""Which of several processes tells its error; that they really end is in end_to_end/test_processes.py."""

from __future__ import annotations

import faulthandler
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from sft_speech.errors import UserError
from sft_speech.training import ending

ALONE, ONE_OF_TWO = (SimpleNamespace(num_processes=number, process_index=0) for number in (1, 2))
LOSS = RuntimeError("[/src/gloo/pair.cc:545] Read error [10.0.0.2]:1: Connection reset by peer. This is typically")


@pytest.fixture
def launcher(monkeypatch):
    """The store of a launcher; the clock that would end this process stands still."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)
    monkeypatch.setattr(ending, "TIME_TO_REPORT", 0)
    return store


def end(error: BaseException, processes=ONE_OF_TWO):
    with ending.first_error_only(processes):
        raise error


def test_the_first_error_is_told_the_others_keep_their_exit_code(launcher):
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError())
    with pytest.raises(SystemExit) as silent:
        end(LOSS)
    assert silent.value.code == 1
    with pytest.raises(SystemExit) as silent:
        end(UserError("corpus", "it is gone", "look for it"))
    assert silent.value.code == 2


def test_where_a_process_was_killed_its_loss_is_told_in_a_line(launcher, caplog):
    with pytest.raises(SystemExit):
        end(LOSS)
    assert "process 0 lost another one (Read error [10.0.0.2]:1: Connection reset by peer): that was" in caplog.text


def test_one_that_was_restarted_speaks_again(launcher, monkeypatch):
    for attempt in "01":
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        with pytest.raises(ZeroDivisionError):
            end(ZeroDivisionError())


def test_without_its_launcher_a_process_rather_tells_too_much(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "no port")
    assert ending.is_first()


@pytest.mark.parametrize("error", [ZeroDivisionError(), UserError("a", "b", "c"), LOSS])
def test_a_single_process_ends_as_ever(error):
    with pytest.raises(type(error)):
        end(error, ALONE)
