"""What every test may use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the Hub, by accident or not
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def two_processes():
    """Runs a script on two CPU processes (gloo), gives what it printed; one that hangs is ended with its children."""

    def launch(*command: str, seconds: float = 180) -> str:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == 0, err
        return out

    return launch
