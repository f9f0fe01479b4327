"""Figures of a whole run, from its log."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace

import torch

from sft_speech.training.figures import seconds_per_update
from sft_speech.training.log_interval import peak_bytes


def test_seconds_per_update_without_the_first_line():
    lines = [
        {"step": step, "seconds_per_update": seconds} for step, seconds in ((1, 9.0), (2, 1.0), (3, 5.0), (4, 2.0))
    ]
    assert seconds_per_update([*lines, {"step": 4, "eval_wer": 0.5}]) == 2.0
    assert seconds_per_update(lines[:1]) == 9.0
    assert seconds_per_update([]) is None


def test_peak_memory_is_in_bytes_on_every_system(monkeypatch):
    """Linux counts the resident set in KiB, macOS in bytes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_bytes() == 5_120_000
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_bytes() == 5000
