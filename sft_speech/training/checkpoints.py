"""Complete checkpoints: each is sealed with a list of its files, and a run resumes only from one that matches its list.

A process may be killed between any two bytes that it writes, and a machine may lose what is not on its disk yet. So
the list is written last, when all other files are on the disk. It holds their sizes and checksums, which take half a
second per GB; writing the files takes three (two cores, local disk).
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
# Replaced atomically after the checkpoint is evaluated, so it is not in the list.
STATE = "trainer_state.json"
# Errors from reading a JSON file that is damaged or has other content.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def begin(folder: Path, processes: PartialState) -> None:
    """Remove any leftover checkpoint in a folder before a new one is written; all processes must call it."""
    if processes.is_main_process:
        remove(folder)
    processes.wait_for_everyone()


def seal(folder: Path, processes: PartialState) -> None:
    """Complete a checkpoint with its list; all processes must call it once they have written their files.

    Each process checksums a share of the files. Their names are gathered from all processes: on a network disk, one
    may not see yet what another wrote.
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
    """Return a description of what is wrong with a checkpoint; None if it is complete."""
    try:
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
        wanted = {str(name): (int(size), int(checksum)) for name, (size, checksum) in listed.items()}
    except FileNotFoundError:
        return f"it was not written to its end ({LIST} is missing)"
    except _UNREADABLE:
        return f"{LIST} cannot be read"
    try:
        state = TrainerState.load_from_json(str(folder / STATE))
        awaits_evaluation(state)
        if not isinstance(state.global_step, int) or state.global_step < 0:
            raise ValueError(f"{state.global_step} steps")
    except FileNotFoundError:
        return f"{STATE} is missing"
    except _UNREADABLE:
        return f"{STATE} cannot be read"
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
        return f"{error.filename} cannot be read ({error.strerror})"
    return None


def in_order(output: Path) -> list[Path]:
    """Return all checkpoints, complete or not, the last step first."""
    numbered = [path for path in output.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(numbered, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def last_whole(output: Path) -> Path | None:
    """Return the last complete checkpoint; warn about later ones that are not."""
    for folder in in_order(output):
        wrong = damage(folder)
        if wrong is None:
            return folder
        logger.warning("%s is skipped: %s", folder, wrong)
    return None


def best_whole(
    output: Path, history: list[dict[str, Any]], metric: str, greater_is_better: bool = False
) -> Path | None:
    """Return the complete checkpoint with the best metric; None if there is none."""
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
    """Return whether the run ended after it saved a checkpoint with this state and before it evaluated it."""
    callbacks: Any = state.stateful_callbacks
    return bool(callbacks.get("TrainerControl", {}).get("args", {}).get("should_evaluate"))


def rotate(output: Path, keep: int, best: str | None) -> None:
    """Remove incomplete checkpoints, and all but ``keep`` of the others.

    The last and the best checkpoint are always kept; the rest of ``keep`` are the most recent ones.
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
    """Remove a checkpoint, its list first, so that a half-removed one does not pass as complete."""
    (folder / LIST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(path: Path, do: str) -> Iterator[None]:
    """Turn disk errors within the block into user errors.

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
    """Return whether an error of Python, torch or safetensors means that the disk cannot be written."""
    message = str(error).lower()
    phrases = ("file write failed", "no space left", "writing file")
    return isinstance(error, OSError) or any(phrase in message for phrase in phrases)
