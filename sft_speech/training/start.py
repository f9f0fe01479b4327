"""The beginning of a run, before anything large is loaded: processes, trackers, the output directory."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import platform
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from sft_speech.errors import UserError
from sft_speech.machine import installer
from sft_speech.options.config import ASIDE, FinetuneConfig
from sft_speech.options.names import current
from sft_speech.options.settings import save_config
from sft_speech.training import checkpoints
from sft_speech.training.lock import OutputLock

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


@contextlib.contextmanager
def main_first(processes: PartialState) -> Iterator[None]:
    """Run the block on the main process first, then on one process of each other machine, then on the rest.

    The other machines may not see the files that the main process writes. If one process fails it reports the error,
    and the others end silently.
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
    """Wait for all processes; end this one if another one failed."""
    if not all(gather_object([fine])):
        raise SystemExit(2)


def from_main(processes: PartialState, make: Callable[[], Made]) -> Made:
    """Return on every process what ``make`` returns on the main one; if it fails, see :func:`main_first`.

    The result is sent pickled, a large corpus as the name of the file that it is mapped from. On a machine without that
    file, one process calls ``make`` too, before the others.
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
    """Return whether processes compute and communicate on the CPU: with `accelerate launch --cpu`, or without a GPU.

    Without this, Accelerate would take each of several CPU processes for the only one.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def uses_bf16(config: FinetuneConfig) -> bool:
    """Return whether a run computes in bfloat16: as its option says, or if the GPU supports it."""
    if config.bf16 is not None:
        return config.bf16
    return torch.cuda.is_available() and not on_cpu() and torch.cuda.is_bf16_supported(including_emulation=False)


PACKAGES = {"azure_ml": "azureml-core", "flyte": "flytekit"}  # of trackers that have another name


def trackers(config: Any) -> list[str]:
    """Return the names in ``report_to``.

    Raises:
        UserError: one of them is unknown or not installed.
    """
    names = [name.strip() for name in config.report_to.split(",") if name.strip()]
    here = get_available_reporting_integrations()
    for name in names:
        if name not in here and names not in (["none"], ["all"]):
            known = name in INTEGRATION_TO_CALLBACK
            do = f"choose {', '.join(here)} or none"
            why = "this tracker is not installed" if known else "there is no such tracker"
            raise UserError(
                f"report_to {name}", why, f"{installer()} {PACKAGES.get(name, name)}, or {do}" if known else do
            )
    return names


def tensorboard_folder(output: str) -> str:
    """Return the folder of TensorBoard's files: in the output directory, unless the environment names another."""
    return os.environ.get("TENSORBOARD_LOGGING_DIR", str(Path(output) / "tensorboard"))


@dataclasses.dataclass
class Beginning:
    """The starting point of a run.

    Args:
        checkpoint: the one to resume from; None to begin at step 1.
        finished: whether there is nothing left to do.
    """

    checkpoint: Path | None = None
    finished: bool = False


def begin(config: Any, output: Path, lock: OutputLock) -> Beginning:
    """Lock the output directory, which is created if needed, and find where the run begins; on the main process.

    Raises:
        UserError: the directory cannot be written or holds another run, or there is no checkpoint to resume from.
    """
    given = config.resume_from_checkpoint or "false"
    lock.hold()
    if given.lower() == "auto" and lock.found.get("finished"):
        changed = changed_settings(config, output / "run.yaml")
        if changed:
            why = f"the run has finished, with another {', '.join(changed)}"
            do = f"to prolong it, start from its model: --model {shlex.quote(str(output))} --output_dir NEW"
            raise UserError(f"--output_dir {output}", why, do)
        return Beginning(finished=True)
    checkpoint = checkpoint_of(given, output)
    if checkpoint is not None and (output / "run.yaml").is_file():
        changed = changed_settings(config, output / "run.yaml")
        if "train" in changed:  # the optimizer's state is that of the weights that were trained
            do = "resume with the same parts, or begin another run with --model CHECKPOINT"
            raise UserError("train", f"the run in {output} trains other parts", do)
        if changed:
            logger.warning("resumed with options that differ from those at its start: %s", ", ".join(changed))
    if checkpoint is None or checkpoint.resolve().parent != output.resolve():
        check_free(output, again=given.lower() == "auto")
    lock.mark(finished=False)
    return Beginning(checkpoint)


def checkpoint_of(given: str, output: Path) -> Path | None:
    """Return the checkpoint that ``resume_from_checkpoint`` names, if any.

    Raises:
        UserError: it is missing or incomplete.
    """
    if given.lower() == "false":
        return None
    if given.lower() in ("true", "auto"):
        found = checkpoints.last_whole(output)
        if found is None and given.lower() == "true":
            why = f"{output} holds no complete checkpoint"
            raise UserError(f"--resume_from_checkpoint {given}", why, "start without it, or with auto")
        return found
    wrong = checkpoints.damage(Path(given)) if Path(given).is_dir() else "there is no such directory"
    if wrong is not None:
        why = f"it is not a complete checkpoint: {wrong}"
        raise UserError(f"--resume_from_checkpoint {given}", why, "choose another one, or start without it")
    return Path(given)


def check_free(output: Path, again: bool) -> None:
    """Check that a run may begin in a directory.

    Args:
        again: accept the files of a run that ended before its first checkpoint.

    Raises:
        UserError: the directory holds another run.
    """
    taken = [name for name in ("run.yaml", "model.safetensors") if (output / name).exists()]
    taken += [path.name for path in checkpoints.in_order(output)]
    if not taken or (again and taken[0] == "run.yaml"):
        return
    do = "or remove it: it has no checkpoint to resume from"
    if taken[0] == "model.safetensors" or (output / "model.safetensors").exists():
        do = f"or start from its model: --model {shlex.quote(str(output))} --output_dir NEW"
    elif checkpoints.last_whole(output) is not None:
        do = "or resume with --resume_from_checkpoint auto"
    raise UserError(
        f"--output_dir {output}", f"it holds another run ({taken[0]})", f"choose another --output_dir, {do}"
    )


def check_seen(output: Path) -> None:
    """Check that this process sees the directory that the main one has created.

    Raises:
        UserError: the directory is on another machine's disk.
    """
    if not output.is_dir():
        why = f"the main process has created it, but {platform.node()} does not see it"
        raise UserError(f"--output_dir {output}", why, "choose one on a disk that all machines share")


def describe_run(config: Any, task: Any) -> None:
    """Write the files that describe the run into its output directory."""
    task.save_processor(config.output_dir)
    save_config(dataclasses.replace(config, resume_from_checkpoint=None), Path(config.output_dir) / "run.yaml")


def keep_output(config: Any, task: Any, lock: OutputLock) -> None:
    """Recreate the output directory if it was removed during the run: the training is not lost."""
    lock.hold()
    if not (Path(config.output_dir) / "run.yaml").exists():
        logger.warning("%s was emptied or removed during the run; it is recreated", config.output_dir)
        describe_run(config, task)


def changed_settings(config: Any, file: Path) -> list[str]:
    """Return the names of the options that differ from those in a run's ``run.yaml`` and may change its model."""
    before = current(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return [name for name, value in vars(config).items() if name not in ASIDE and before.get(name, value) != value]
