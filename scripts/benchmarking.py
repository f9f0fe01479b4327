"""Shared code of the benchmarks against plain recipes: running a recipe in a process, and measuring it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# As set by the command line; plain recipes keep the defaults of torch.
OUR_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}


def run_recipe(script: str, arguments: list[str], folder: Path, caches: Path, **environment: str) -> dict[str, Any]:
    """Run a recipe in a new process and return the content of ``folder/found.json``.

    Args:
        script: the script to run, with ``arguments`` and ``--folder FOLDER``.
        caches: folder for the caches of the Hugging Face libraries; empty for a cold start.
    """
    folder.mkdir(parents=True)
    environment |= {"HF_HOME": str(caches), "HF_DATASETS_CACHE": str(caches), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, script, *arguments, "--folder", str(folder)]
    with open(folder / "log", "w") as log:
        given = os.environ | environment | {"STARTED": str(time.time())}
        ended = subprocess.run(command, env=given, stdout=log, stderr=log)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}: {(folder / 'log').read_text()[-2000:]}")
    return json.loads((folder / "found.json").read_text())


def bytes_in(*folders: Path) -> int:
    """Return the total size of all files in the folders."""
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def peak_memory() -> int:
    """Return the peak memory of the GPU, or of this process if there is no GPU, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended: fair on a machine that is shared."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def clock(*folders: Path, only_start: Path | None = None) -> Any:
    """Return a callback that measures training.

    Its ``found`` holds the seconds from the start of the process to the beginning and the end of step 1 ("before",
    "first"), the bytes written into ``folders`` before it, the steps per second after step 2, the peak memory, and the
    seconds and CPU seconds of all steps ("training", "training_cpu").

    Args:
        only_start: write ``found`` to this file at step 1 and end the process.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.found: dict[str, float] = {}
            self.since = 0.0
            self.began = (0.0, 0.0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                self.found = {"before": time.time() - float(os.environ["STARTED"]), "bytes": bytes_in(*folders)}
                if only_start is not None:
                    only_start.write_text(json.dumps(self.found))
                    sys.stdout.flush()
                    os._exit(0)
                self.began = time.time(), cpu_seconds()
            elif state.global_step == 2:  # the first steps are slower
                self.since = time.time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                self.found["first"] = time.time() - float(os.environ["STARTED"])
            self.found["training"] = time.time() - self.began[0]
            self.found["training_cpu"] = cpu_seconds() - self.began[1]

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.found["steps_per_second"] = (state.global_step - 2) / (time.time() - self.since)
            self.found["memory"] = peak_memory()

    return Clock()
