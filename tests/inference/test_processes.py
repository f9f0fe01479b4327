from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from accelerate.commands import launch as accelerate
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from sft_speech.errors import UserError
from sft_speech.inference.processes import Process, launch
from sft_speech.tasks.finetune import to_be_launched


def test_a_process_knows_itself_from_its_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Process.this() == Process(0, 1, 0)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Process.this() == Process(5, 8, 1)
    assert not Process.this().main


@pytest.mark.parametrize(("given", "device"), [(None, "cuda:1"), ("cuda", "cuda:1"), ("cpu", "cpu")])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, given, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Process(3, 4, 1).device(given) == device
    assert Process().device("cuda:1") == "cuda:1"


def test_devices_that_cannot_be_shared_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="there are 2 GPUs"):
        Process(2, 3, 2).device(None)
    with pytest.raises(UserError, match="its own GPU"):
        Process(0, 2, 0).device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Process(1, 2, 1).device(None) is None


def test_a_process_ends_with_the_one_that_started_it():
    module = "from sft_speech.inference import processes as p"
    child = f"{module}; p.end_with_parent(); print(1, flush=True); p.time.sleep(90)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"1\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.communicate(timeout=30)[0] == b""  # the pipe is closed when the child is gone, too


@pytest.mark.parametrize(
    ("codes", "code", "message"),
    [
        ({1: 2}, 2, ""),
        ({0: 75}, 75, ""),
        ({3: -signal.SIGKILL}, 1, "process 3 was killed by SIGKILL, perhaps because memory ran out"),
        ({}, 75, ""),  # a signal to the launcher
    ],
)
def test_a_launcher_ends_with_the_exit_code_of_the_process_that_failed(monkeypatch, caplog, codes, code, message):
    def fail(command):
        assert command.training_script_args == ["finetune-asr", "--num_processes", "4"]
        failures = {rank: ProcessFailure(rank, 1, number, "/nowhere") for rank, number in codes.items()}
        raise ChildFailedError("sft_speech", failures) if codes else SignalException("stopped", signal.SIGTERM)

    monkeypatch.setattr(accelerate, "launch_command", fail)
    assert launch(["finetune-asr", "--num_processes", "4"], 4) == code
    assert caplog.messages == [message] * bool(message)


def test_a_number_of_processes_that_cannot_be(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (to_be_launched(1), to_be_launched(2)) == (False, True)
    for number, why in ((0, "nothing would run"), (3, "its own GPU, and there are 2")):
        with pytest.raises(UserError, match=why):
            to_be_launched(number)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not to_be_launched(2)
    with pytest.raises(UserError, match="already started 2 processes"):
        to_be_launched(4)
