"""Processes that decode audio and end too early, by really ending them."""

from __future__ import annotations

import pytest

from sft_speech.training.workers import worker_error

# In a process of its own: torch raises that a worker is gone wherever Python is when it hears of it. At the first item:
# later ones may be on their way, and then the error is that of a connection, which names no signal.
ENDED = """
import os, sys
import torch
from sft_speech.training.workers import let_go, worker_error

class Deadly(torch.utils.data.Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return os.kill(os.getpid(), int(sys.argv[1])) if index == 0 else index

try:
    list(torch.utils.data.DataLoader(Deadly(), num_workers=1))
except RuntimeError as error:
    let_go(error)
    print(worker_error(error, 1))
"""


@pytest.mark.parametrize(
    ("number", "why", "do"),
    [
        (9, "as the system does when memory is full", "lower --dataloader_num_workers"),
        (7, "a bus error: shared memory is full", "docker run --shm-size"),
    ],
)
def test_a_worker_that_ends_is_told(number, why, do, run_python):
    _, said, _ = run_python(ENDED, str(number))
    assert why in said
    assert do in said
    assert "resume with --resume_from_checkpoint" in said


def test_other_errors_are_left_alone():
    assert worker_error(RuntimeError("CUDA error"), 2) is None
    assert worker_error(KeyboardInterrupt(), 2) is None
