"""Checkpoints that are whole: each ends with a list of its files, and a run resumes only from one that matches it.

A process may be killed between any two bytes that it writes, and a machine may lose what is not on its disk yet. So
the list comes last, when all other files are on the disk. It holds their sizes and checksums: half a second per GB, to
three for the files themselves (two cores, local disk).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerControl, TrainerState

from sft_speech.errors import UserError
from sft_speech.files import sync, write_whole

logger = logging.getLogger(__name__)

LIST = "files.json"
# Replaced, in one piece, after the evaluation of the checkpoint: so the list doesn't hold it.
STATE = "trainer_state.json"
# What a JSON file may raise that is damaged or holds something else.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def begin(folder: Path, processes: PartialState) -> None:
    """Remove what is in the way of a checkpoint; all processes have to call it."""
    if processes.is_main_process:
        remove(folder)
    processes.wait_for_everyone()


def seal(folder: Path, processes: PartialState) -> None:
    """End a checkpoint with its list; all processes have to call it, when they have written their files.

    Each lists a share of the files: on a network disk one may not see yet what another wrote.
    """
    processes.wait_for_everyone()
    here = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != STATE]
    names = sorted(set(gather_object(here)))[processes.process_index :: processes.num_processes]
    for name in names:
        sync(folder / name)
    entries = gather_object(list(zip(names, fingerprints(folder, names), strict=True)))
    if processes.is_main_process:
        sync(folder / STATE)
        write_whole(folder / LIST, json.dumps(dict(sorted(entries)), indent=1))
        sync(folder.parent)
    processes.wait_for_everyone()


def fingerprints(folder: Path, names: list[str]) -> list[list[int]]:
    """Return the size and CRC-32 of each file."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda name: fingerprint(folder / name), names))


def fingerprint(file: Path) -> list[int]:
    size, checksum = 0, 0
    with open(file, "rb") as data:
        while block := data.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, and with which file; None where it is whole."""
    try:
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
        wanted = {str(name): (int(size), int(checksum)) for name, (size, checksum) in listed.items()}
    except FileNotFoundError:
        return f"it was not written to its end ({LIST} is missing)"
    except _UNREADABLE:
        return f"{LIST} can't be read"
    try:
        state = TrainerState.load_from_json(str(folder / STATE))
        awaits_evaluation(state)
        if not isinstance(state.global_step, int) or state.global_step < 0:
            raise ValueError(f"{state.global_step} steps")
    except FileNotFoundError:
        return f"{STATE} is missing"
    except _UNREADABLE:
        return f"{STATE} can't be read"
    for name, (size, _) in wanted.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (found := (folder / name).stat().st_size) != size:
            return f"{name} has {found} bytes instead of {size}"
    try:
        for name, (_, checksum) in zip(wanted, fingerprints(folder, list(wanted)), strict=True):
            if checksum != wanted[name][1]:
                return f"{name} is not what was written (its checksum differs)"
    except OSError as error:
        return f"{error.filename} can't be read ({error.strerror})"
    return None


def in_order(output: Path) -> list[Path]:
    """Return all checkpoints, whole or not, the last step first."""
    numbered = [path for path in output.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(numbered, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def last_whole(output: Path) -> Path | None:
    """Return the last checkpoint that is whole; warn of those that are not."""
    for folder in in_order(output):
        wrong = damage(folder)
        if wrong is None:
            return folder
        logger.warning("%s is passed over: %s", folder, wrong)
    return None


def best_whole(
    output: Path, history: list[dict[str, Any]], metric: str, greater_is_better: bool = False
) -> Path | None:
    """Return the checkpoint with the best metric among those that are whole."""
    scores = {f"checkpoint-{entry['step']}": entry[metric] for entry in history if metric in entry}
    scored = [path for path in in_order(output) if path.name in scores]
    ranked = sorted(scored, key=lambda path: scores[path.name], reverse=greater_is_better)
    return next((path for path in ranked if damage(path) is None), None)


def evaluated(folder: Path, state: TrainerState, control: TrainerControl) -> None:
    """Add the evaluation of a checkpoint to its state."""
    callbacks: Any = state.stateful_callbacks
    callbacks[type(control).__name__] = control.state()
    content = json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n"  # as `save_to_json` writes it
    write_whole(folder / STATE, content)


def awaits_evaluation(state: TrainerState) -> bool:
    """Return whether the run ended between the saving of a checkpoint, with this state, and its evaluation."""
    callbacks: Any = state.stateful_callbacks
    return bool(callbacks.get("TrainerControl", {}).get("args", {}).get("should_evaluate"))


def rotate(output: Path, keep: int, best: str | None) -> None:
    """Remove all but the ``keep`` last checkpoints by their step, and those that were not written to the end.

    The best one is one of them; it and the last one are kept in any case.
    """
    whole = []
    for folder in in_order(output):
        if (folder / LIST).is_file():
            whole.append(folder)
        else:
            remove(folder)
    protected = whole[:1] + [folder for folder in whole[1:] if best is not None and folder == Path(best)]
    others = [folder for folder in whole if folder not in protected]
    for folder in others[max(0, keep - len(protected)) :]:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint, its list first: what is half removed isn't whole."""
    (folder / LIST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(path: Path, do: str) -> Iterator[None]:
    """Within, errors of the disk become user errors.

    Raises:
        UserError: ``path`` could not be written; ``do`` says what to do once there is room.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_error(error):
            raise
        message = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise UserError(str(path), f"it could not be written ({message})", f"make room, then {do}") from error


def is_disk_error(error: Exception) -> bool:
    """Return whether a disk is full or a permission is lost, by the messages of Python, torch and safetensors."""
    message = str(error).lower()
    phrases = ("file write failed", "no space left", "writing file")
    return isinstance(error, OSError) or any(phrase in message for phrase in phrases)
