"""What every run does before anything large is loaded: processes, trackers, the output directory."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from transformers.integrations.integration_utils import get_available_reporting_integrations

from sft_speech.errors import UserError
from sft_speech.training.trainer import last_checkpoint

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


def check_output(config: Any, output: Path, first: bool) -> Path | None:
    """Makes the output directory, or finds the checkpoint to go on from.

    Raises:
        UserError: it can't be written, holds another run, has no checkpoint to resume, or is another machine's own.
    """
    given, resumed = config.resume_from_checkpoint or "false", None
    if given.lower() != "false":
        resumed = last_checkpoint(output) if given.lower() == "true" else Path(given)
        if resumed is None or not (resumed / "trainer_state.json").is_file():
            why = f"{resumed or output} holds no whole checkpoint"
            raise UserError(f"--resume_from_checkpoint {given}", why, "start without it")
    if not first:
        if not output.is_dir():
            why = f"the main process made it, {platform.node()} doesn't see it"
            raise UserError(f"--output_dir {output}", why, "take one on a disk that all machines share")
        return resumed
    if resumed is not None and (output / "run.yaml").is_file():
        warn_of_changes(config, output / "run.yaml")
    if resumed is None or resumed.resolve().parent != output.resolve():
        taken = [name for name in ("run.yaml", "model.safetensors") if (output / name).exists()]
        taken += [path.name for path in output.glob("checkpoint-*")] if output.is_dir() else []
        if taken:
            go_on = last_checkpoint(output) is not None
            do = "go on with --resume_from_checkpoint" if go_on else "remove it, for it has no checkpoint to go on from"
            raise UserError(
                f"--output_dir {output}", f"it holds another run ({taken[0]})", f"take another --output_dir, or {do}"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        why = f"it can't be written ({error.strerror})"
        raise UserError(f"--output_dir {output}", why, "take another one") from error
    return resumed


def warn_of_changes(config: Any, file: Path) -> None:
    """Says which settings differ from those that the run began with: it is then resumed, but not the same run."""
    before = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    free = {"output_dir", "resume_from_checkpoint", "dataloader_num_workers", "rehearse", "report_to", "run_name"}
    free |= {"push_to_hub", "hub_model_id", "hub_private", "hub_strategy", "license"}
    changed = [name for name, value in vars(config).items() if name not in free and before.get(name, value) != value]
    if changed:
        logger.warning("resumed with other settings than it began with: %s", ", ".join(changed))
