"""Runs a script with FSDP on CPU processes: fsdp_on_cpu.py SCRIPT [ARGUMENT ...], under `accelerate launch`.

accelerate (1.15, `AcceleratorState.__init__`) heeds FSDP only where it has found GPUs, and trains whole models else.
So the CPU processes that it has found are called GPUs for as long as it decides that; all else is its own and torch's.
"""

from __future__ import annotations

import runpy
import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

decide = AcceleratorState.__init__


def decide_as_on_gpus(self, *args, **kwargs) -> None:
    PartialState(cpu=True)
    found = PartialState._shared_state
    if found["distributed_type"] == DistributedType.MULTI_CPU:
        found["distributed_type"] = DistributedType.MULTI_GPU
    decide(self, *args, **kwargs)


AcceleratorState.__init__ = decide_as_on_gpus
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
