"""What every run does before anything large is loaded: processes, trackers, the output directory."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from transformers.integrations.integration_utils import get_available_reporting_integrations

from sft_speech.errors import UserError
from sft_speech.options.names import current
from sft_speech.options.settings import save_config
from sft_speech.training import checkpoints
from sft_speech.training.lock import OutputLock

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


@contextlib.contextmanager
def main_first(processes: PartialState) -> Iterator[None]:
    """The main process goes first, then one on each other machine, which may not see what that left, then the rest.

    Where one fails the others end without a word: it says why.
    """
    turn = 0 if processes.is_main_process else 1 if processes.is_local_main_process else 2
    for _ in range(turn):
        leave_if_failed(fine=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(SystemExit):
            leave_if_failed(fine=False)
        raise
    for _ in range(turn, 3):
        leave_if_failed(fine=True)


def leave_if_failed(fine: bool) -> None:
    """Waits for all processes; ends this one where another says that it failed."""
    if not all(gather_object([fine])):
        raise SystemExit(2)


def from_main(processes: PartialState, make: Callable[[], Made]) -> Made:
    """What ``make`` gives the main process, on every process; where it fails, see :func:`main_first`.

    It travels pickled, and a large corpus in it as the name of the file that it is mapped from. Where that file isn't,
    as on another machine, ``make`` is called as well, by one process there before the others.
    """
    if processes.num_processes == 1:
        return make()
    if processes.is_main_process:
        sent = b""
        try:
            made = make()
            sent = pickle.dumps(made)
        finally:
            broadcast_object_list([sent])
    else:
        (sent,) = broadcast_object_list([b""])
        if not sent:
            raise SystemExit(2)
    with main_first(processes):
        if not processes.is_main_process:
            try:
                made = pickle.loads(sent)
            except FileNotFoundError:
                made = make()
    return made


def on_cpu() -> bool:
    """Whether processes compute, and meet each other, on the CPU: `accelerate launch --cpu`, or nothing else is there.

    Accelerate takes processes that were not told so for single ones.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def trackers(config: Any) -> list[str]:
    """The names in ``report_to``.

    Raises:
        UserError: one of them is unknown or not installed.
    """
    names = [name.strip() for name in config.report_to.split(",") if name.strip()]
    here = get_available_reporting_integrations()
    for name in names:
        if name not in here and names not in (["none"], ["all"]):
            why = "no such tracker is installed"
            raise UserError(f"report_to {name}", why, f"install it, or take {', '.join(here)} or none")
    return names


def tensorboard_folder(output: str) -> str:
    """Where TensorBoard's files go: into the output directory, unless the environment says otherwise."""
    return os.environ.get("TENSORBOARD_LOGGING_DIR", str(Path(output) / "tensorboard"))


@dataclasses.dataclass
class Beginning:
    """Where a run sets out.

    Args:
        checkpoint: it goes on from; None for the start.
        finished: there is nothing left to do.
    """

    checkpoint: Path | None = None
    finished: bool = False


def begin(config: Any, output: Path, lock: OutputLock) -> Beginning:
    """Looks into the output directory, which is locked, or made and locked; on the main process.

    Raises:
        UserError: it can't be written, holds another run or one that goes on, or there is no checkpoint to resume.
    """
    given = config.resume_from_checkpoint or "false"
    lock.hold()
    if given.lower() == "auto" and lock.found.get("finished"):
        changed = changed_settings(config, output / "run.yaml")
        if changed:
            why = f"the run is finished, and had another {', '.join(changed)}"
            raise UserError(f"--output_dir {output}", why, "take another --output_dir")
        return Beginning(finished=True)
    checkpoint = checkpoint_of(given, output)
    if checkpoint is not None and (output / "run.yaml").is_file():
        changed = changed_settings(config, output / "run.yaml")
        if changed:
            logger.warning("resumed with other settings than it began with: %s", ", ".join(changed))
    if checkpoint is None or checkpoint.resolve().parent != output.resolve():
        check_free(output, again=given.lower() == "auto")
    lock.mark(finished=False)
    return Beginning(checkpoint)


def checkpoint_of(given: str, output: Path) -> Path | None:
    """The checkpoint that ``resume_from_checkpoint`` means; None for none.

    Raises:
        UserError: it has to be there and isn't, or not as a whole.
    """
    if given.lower() == "false":
        return None
    if given.lower() in ("true", "auto"):
        found = checkpoints.last_whole(output)
        if found is None and given.lower() == "true":
            why = f"{output} holds no whole checkpoint"
            raise UserError(f"--resume_from_checkpoint {given}", why, "start without it, or with auto")
        return found
    wrong = checkpoints.damage(Path(given)) if Path(given).is_dir() else "there is no such directory"
    if wrong is not None:
        why = f"it is no whole checkpoint: {wrong}"
        raise UserError(f"--resume_from_checkpoint {given}", why, "take another one, or start without it")
    return Path(given)


def check_free(output: Path, again: bool) -> None:
    """See that a run may begin in a directory.

    Args:
        again: what a run left there that came to no checkpoint is not in the way.

    Raises:
        UserError: it holds another run.
    """
    taken = [name for name in ("run.yaml", "model.safetensors") if (output / name).exists()]
    taken += [path.name for path in checkpoints.in_order(output)]
    if not taken or (again and taken[0] == "run.yaml"):
        return
    do = "or remove it, for it has no checkpoint to go on from"
    if checkpoints.last_whole(output) is not None:
        do = "or go on with --resume_from_checkpoint auto"
    raise UserError(f"--output_dir {output}", f"it holds another run ({taken[0]})", f"take another --output_dir, {do}")


def check_seen(output: Path) -> None:
    """See that this process finds what the main one made.

    Raises:
        UserError: it is another machine's own.
    """
    if not output.is_dir():
        why = f"the main process made it, {platform.node()} doesn't see it"
        raise UserError(f"--output_dir {output}", why, "take one on a disk that all machines share")


def describe_run(config: Any, task: Any) -> None:
    """Leaves in the output directory what says which run it is."""
    task.save_processor(config.output_dir)
    save_config(dataclasses.replace(config, resume_from_checkpoint=None), Path(config.output_dir) / "run.yaml")


def keep_output(config: Any, task: Any, lock: OutputLock) -> None:
    """See that the output directory is there and this run's own: it may have been removed, days of training are not."""
    lock.hold()
    if not (Path(config.output_dir) / "run.yaml").exists():
        logger.warning("%s was emptied or removed during the run; it is made anew", config.output_dir)
        describe_run(config, task)


def changed_settings(config: Any, file: Path) -> list[str]:
    """Which settings differ from those that a run began with: resumed with others it is not the same run."""
    before = current(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    free = {"output_dir", "resume_from_checkpoint", "dataloader_num_workers", "oom_check", "report_to", "run_name"}
    free |= {"push_to_hub", "hub_model_id", "hub_private", "hub_strategy", "license"}
    return [name for name, value in vars(config).items() if name not in free and before.get(name, value) != value]
