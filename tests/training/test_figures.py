"""Figures of a whole run, from its log."""

from __future__ import annotations

import resource
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sft_speech.training.figures import seconds_per_update
from sft_speech.training.log_interval import CLEAR, LogInterval, peak_bytes, reset_peak


def test_seconds_per_update_without_the_first_line():
    lines = [
        {"step": step, "seconds_per_update": seconds} for step, seconds in ((1, 9.0), (2, 1.0), (3, 5.0), (4, 2.0))
    ]
    assert seconds_per_update([*lines, {"step": 4, "eval_wer": 0.5}]) == 2.0
    assert seconds_per_update(lines[:1]) == 9.0
    assert seconds_per_update([]) is None


@pytest.mark.skipif(not CLEAR.exists(), reason="the peak of a process can be reset on Linux only")
def test_the_peak_of_an_earlier_run_is_forgotten(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reset_peak()
    before = peak_bytes()
    held = np.ones(2**25)  # 256 MiB
    assert peak_bytes() > before + 2**27
    del held
    reset_peak()
    assert peak_bytes() < before + 2**27


def test_the_peak_of_a_gpu_is_forgotten_too(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    reset_peak()
    assert calls == ["reset"]


def test_peak_memory_is_in_bytes_on_every_system(monkeypatch):
    """Linux counts the resident set in KiB, macOS in bytes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_bytes() == 5_120_000
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_bytes() == 5000


def test_an_interval_goes_on_where_it_was_saved(tmp_path):
    """What ran between saving and loading is not part of it."""
    interval = LogInterval(steps=2, began=time.monotonic() - 1000, cpu_began=time.process_time() - 500)
    interval.leave_out(200, 100)
    interval.save(tmp_path, 0, 1)
    loaded = LogInterval.load(tmp_path, 0, 1, torch.device("cpu"))
    assert loaded.steps == 2
    assert 800 <= loaded.seconds() < 900
    assert 400 <= loaded.cpu_seconds() < 450
