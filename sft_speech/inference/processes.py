"""Processes that share a disk and nothing else: the rank of this one, its device, and how they are launched.

They never wait for each other as in training (no NCCL, no gloo): their work is unequal, and one may end early.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sft_speech.errors import RESUMABLE, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Process:
    """One of ``world`` processes, numbered from 0; ``local_rank`` counts those of its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def this(cls) -> Process:
        """Return this process, as a launcher describes it in the environment."""
        rank, world, local_rank = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls(int(rank or 0), int(world or 1), int(local_rank or 0))

    @property
    def main(self) -> bool:
        return self.rank == 0

    def device(self, given: str | None) -> str | None:
        """Return this process's own GPU, if there are GPUs and the CPU was not requested.

        Raises:
            UserError: all processes were given the same GPU, or there are too few GPUs.
        """
        if self.world == 1 or given == "cpu":
            return given
        if given not in (None, "cuda"):
            raise UserError(f"--device {given}", "each process uses its own GPU", "leave it out, or give cpu")
        import torch

        gpus = torch.cuda.device_count()
        if gpus and self.local_rank >= gpus:
            do = f"start {gpus} on this machine, or give --device cpu"
            raise UserError(f"process {self.local_rank + 1} of this machine", f"there are {gpus} GPUs", do)
        return f"cuda:{self.local_rank}" if gpus else given


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Run ``sft-speech`` in several processes of this machine, as ``accelerate launch`` does.

    On a CPU they share the cores. When one of them dies, the others are terminated. The launcher itself prints nothing
    unless a process was killed, so that the message of the process that failed comes last.

    Args:
        arguments: the verb and its arguments.

    Returns:
        The exit code: 0 if all of them succeeded, otherwise that of the first one that failed, or :data:`RESUMABLE` if
        a signal stopped them.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // num_processes)
    options = (  # all of them, so that no configuration file of accelerate overrides any
        f"--multi_gpu --gpu_ids all --num_machines 1 --num_processes {num_processes} --main_process_port 0 "
        f"--mixed_precision no --dynamo_backend no --num_cpu_threads_per_process {threads} --module sft_speech"
    )
    # Those that torch takes without this, and SIGUSR1, at which a run saves a checkpoint; it passes them on.
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    command = launch_command_parser().parse_args([*options.split(), *arguments])
    logging.disable(logging.ERROR)  # torch describes each end in dozens of lines
    try:
        launch_command(command)
    except SignalException:
        return RESUMABLE
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
    else:
        return 0
    finally:
        logging.disable(logging.NOTSET)
    if failure.exitcode >= 0:
        return failure.exitcode
    name = signal.Signals(-failure.exitcode).name
    why = ", perhaps because memory ran out" if name == "SIGKILL" else ""
    logger.error("process %d was killed by %s%s", rank, name, why)
    return 1


def end_with_parent() -> None:
    """Exit soon after the parent process does, which may be killed without a signal to this one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
