"""Run a script with FSDP on CPU processes: accelerate launch ... fsdp_on_cpu.py SCRIPT [ARGUMENT ...]

accelerate (1.15, `AcceleratorState.__init__`) uses FSDP only with GPUs. So the CPU processes are declared to be GPUs
while it decides; nothing else is changed.
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
