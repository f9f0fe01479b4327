"""Transcripts of very many recordings on disk: written by any number of processes, any of them killed at any moment.

While a run is unfinished, FILE.parts lies beside FILE:

run.json                      what the run was begun with; to go on with anything else would mix two results
000000512-000001024.part      the lines of recordings 512 up to 1024

A part is what the transcriber hands over at a time, whole or not there: it is renamed once it is written. Recordings
are dealt out in blocks, and nobody has to ask who does what: it follows from the numbers of the block and the process.
Whoever writes the last part finds all of them there, and puts them together in a file that is renamed to FILE: it is
whole or not there, too. Two that do the same at the same time do no harm, for they write the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.files import open_whole, write_whole

# Recordings of a block: as many as fill a pool of the recognizer, fewer where each process would get few blocks.
BLOCK = 512
BLOCKS_EACH = 4

_PATIENCE_SECONDS = 600.0  # for the main process of another machine


@dataclass(frozen=True)
class Parts:
    """The parts of one output.

    Args:
        output: FILE.
        recordings: their number.
        block: recordings of a block.
    """

    output: Path
    recordings: int
    block: int

    @property
    def folder(self) -> Path:
        return _folder(self.output)

    @property
    def empty(self) -> bool:
        """Whether nothing of the run is there yet."""
        return not self.folder.exists() or not self._there()

    def missing(self, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
        """Recordings [first, stop) that a process has still to transcribe, of each of its blocks the rest."""
        there, found = self._there(), []
        for start in range(rank * self.block, self.recordings, world * self.block):
            stop = min(start + self.block, self.recordings)
            first = start
            while first < stop and first in there:
                first = there[first]
            if first < stop:
                found.append((first, stop))
        return found

    def write(self, first: int, lines: Sequence[bytes]) -> None:
        """Adds the lines of recordings that begin with number ``first``, one line each.

        Raises:
            FileNotFoundError: another process has finished the run, this part too.
        """
        with open_whole(self.folder / _name(first, first + len(lines))) as part:
            part.writelines(lines)

    def merge(self, failed: Callable[[bytes], bool]) -> int | None:
        """Puts the parts together, if all are there; bare line ends are left out.

        Args:
            failed: whether a line is that of a recording which could not be heard.

        Returns:
            How many could be heard; None where parts are missing.

        Raises:
            UserError: a part isn't what was written.
            FileNotFoundError: another process has finished the run.
        """
        if self.missing():
            return None
        there, first, heard = self._there(), 0, 0
        with open_whole(self.output, scratch=self.folder) as merged:
            while first < self.recordings:
                path, stop = self.folder / _name(first, there[first]), there[first]
                with open(path, "rb") as part:
                    for line in part:
                        heard += not failed(line)
                        merged.write(line if line != b"\n" else b"")
                        first += line.endswith(b"\n")
                if first != stop:
                    path.unlink()
                    raise UserError(f"{path}", "it isn't what was written", "go on with --resume: it is written anew")
        self.discard()
        return heard

    def discard(self) -> None:
        """Removes the parts of a finished run: all at once for whoever looks, so that none is taken for missing."""
        gone = self.folder.with_name(f"{self.folder.name}.done")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _there(self) -> dict[int, int]:
        """First recording of each part: the one after its last."""
        found = (re.fullmatch(r"(\d+)-(\d+)\.part", name) for name in os.listdir(self.folder))
        return {int(match[1]): int(match[2]) for match in found if match}


def begin(output: Path, settings: dict[str, Any], recordings: int, world: int, resume: bool) -> Parts | None:
    """Begins a run, or goes on with one.

    Args:
        settings: what the result depends on, by name, as JSON has it.
        recordings: their number.
        world: number of processes.
        resume: go on where an unfinished run was.

    Returns:
        None where the run is finished already.

    Raises:
        UserError: what is there isn't to be overwritten, or not to be gone on with; it can't be written.
    """
    folder = _folder(output)
    if output.exists() and not resume:
        raise UserError(f"-o {output}", "it is there already", "remove it, or take another name")
    parts = Parts(output, recordings, max(1, min(BLOCK, recordings // (world * BLOCKS_EACH))))
    if not parts.empty and not resume:
        do = "go on with --resume, or remove that folder"
        raise UserError(f"-o {output}", f"{folder} holds an unfinished run", do)
    if not output.exists() and parts.empty:
        began = {"settings": settings, "recordings": recordings, "block": parts.block}
        folder.mkdir(exist_ok=True)
        write_whole(folder / "run.json", json.dumps(began, indent=2))
    return join(output, settings)


def join(output: Path, settings: dict[str, Any]) -> Parts | None:
    """Takes part in a run that the main process has begun, or will soon; see :func:`begin`."""
    file, deadline = _folder(output) / "run.json", time.monotonic() + _PATIENCE_SECONDS
    while not file.exists():
        if output.exists():
            return None
        if time.monotonic() > deadline:
            raise UserError(f"-o {output}", "the main process hasn't begun", "see what it says; is this disk shared?")
        time.sleep(0.2)
    began = json.loads(file.read_bytes())
    differing = [name for name in settings if began["settings"].get(name) != settings[name]]
    if differing:
        why = f"the unfinished run in {file.parent} was begun with other {', '.join(differing)}"
        raise UserError(f"-o {output}", why, "give what it was begun with, or remove that folder")
    parts = Parts(output, began["recordings"], began["block"])
    if output.exists():  # killed before it could remove the parts
        parts.discard()
        return None
    return parts


def fingerprint(names: Sequence[str]) -> str:
    """Of a list of recordings, their order too."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()


def weights(model: str) -> list[list[Any]]:
    """Name, size and time of change of a model's files; none where it comes from the Hub."""
    folder = Path(model)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _name(first: int, stop: int) -> str:
    return f"{first:09}-{stop:09}.part"
