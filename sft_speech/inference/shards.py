"""Transcripts of very many recordings, written to disk by any number of processes, any of which may be killed.

While a run is unfinished, FILE.parts exists beside FILE:

run.json                      what the run was started with; resuming with anything else would mix two results
000000512-000001024.part      the lines of recordings 512 up to 1024: a shard

A shard is what the transcriber delivers at once; it is complete or absent. Recordings are assigned to processes in
blocks without any communication, by the numbers of the block and of the process. The process that writes the last
shard finds all of them and merges them into FILE, which is complete or absent too. Two processes that merge at the
same time do no harm, because they write the same.
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

# Recordings per block: as many as fill a pool of the recognizer, or a sixteenth of a process's share if that is
# less. A crash loses the block in progress, which can take a large model on a CPU half an hour.
BLOCK = 512
BLOCKS_EACH = 16


@dataclass(frozen=True)
class Shards:
    """The shards of one output.

    Args:
        output: FILE.
        recordings: number of recordings.
        block: recordings per block.
    """

    output: Path
    recordings: int
    block: int

    @property
    def folder(self) -> Path:
        return _folder(self.output)

    @property
    def empty(self) -> bool:
        """Whether no shard has been written yet."""
        return not self.folder.exists() or not self._existing()

    def missing(self, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
        """Return the recordings [first, stop) left for a process: the rest of each of its blocks."""
        there, found = self._existing(), []
        for start in range(rank * self.block, self.recordings, world * self.block):
            stop = min(start + self.block, self.recordings)
            first = start
            while first < stop and first in there:
                first = there[first]
            if first < stop:
                found.append((first, stop))
        return found

    def write(self, first: int, lines: Sequence[bytes]) -> None:
        """Write a shard: a line per recording, starting with recording ``first``.

        Raises:
            FileNotFoundError: another process has finished the run, this shard included.
        """
        with open_whole(self.folder / _name(first, first + len(lines))) as shard:
            shard.writelines(lines)

    def merge(self, failed: Callable[[bytes], bool]) -> int | None:
        """Merge the shards if all of them exist; empty lines are left out.

        Args:
            failed: whether a line belongs to a recording that could not be read.

        Returns:
            The number of recordings that could be read; None if shards are missing.

        Raises:
            UserError: a shard was changed after it was written.
            FileNotFoundError: another process has finished the run.
        """
        if self.missing():
            return None
        there, first, readable = self._existing(), 0, 0
        with open_whole(self.output, scratch=self.folder) as merged:
            while first < self.recordings:
                path, stop = self.folder / _name(first, there[first]), there[first]
                with open(path, "rb") as shard:
                    for line in shard:
                        readable += not failed(line)
                        merged.write(line if line != b"\n" else b"")
                        first += line.endswith(b"\n")
                if first != stop:
                    path.unlink()
                    raise UserError(
                        f"{path}",
                        "it was changed after it was written",
                        "continue with --resume, which writes it again",
                    )
        self.discard()
        return readable

    def discard(self) -> None:
        """Remove the shards of a finished run, all at once, so that no other process considers one missing."""
        gone = self.folder.with_name(f"{self.folder.name}.done")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _existing(self) -> dict[int, int]:
        """Map the first recording of each shard to the one after its last."""
        found = (re.fullmatch(r"(\d+)-(\d+)\.part", name) for name in os.listdir(self.folder))
        return {int(match[1]): int(match[2]) for match in found if match}


def begin(output: Path, settings: dict[str, Any], recordings: int, world: int, resume: bool) -> Shards | None:
    """Start a run, or resume one.

    Args:
        settings: everything that the result depends on, by name, as JSON represents it.
        recordings: number of recordings.
        world: number of processes.
        resume: continue an unfinished run.

    Returns:
        None if the run is already finished.

    Raises:
        UserError: the output exists and must not be overwritten, or the unfinished run had other settings.
    """
    folder = _folder(output)
    if output.exists() and not resume:
        raise UserError(f"-o {output}", "it already exists", "remove it, or choose another name")
    shards = Shards(output, recordings, max(1, min(BLOCK, recordings // (world * BLOCKS_EACH))))
    if not shards.empty and not resume:
        do = "continue with --resume, or remove that folder"
        raise UserError(f"-o {output}", f"{folder} holds an unfinished run", do)
    if not output.exists() and shards.empty:
        began = {"settings": settings, "recordings": recordings, "block": shards.block}
        folder.mkdir(exist_ok=True)
        write_whole(folder / "run.json", json.dumps(began, indent=2))
    return join(output, settings)


def join(output: Path, settings: dict[str, Any], patience_seconds: float = 600.0) -> Shards | None:
    """Join a run that the main process, perhaps on another machine, has started or is about to start.

    See :func:`begin`; the main process may take up to ``patience_seconds``.
    """
    file, deadline = _folder(output) / "run.json", time.monotonic() + patience_seconds
    while not file.exists():
        if output.exists():
            return None
        if time.monotonic() > deadline:
            raise UserError(
                f"-o {output}", "the main process has not started", "see its messages; is this disk shared?"
            )
        time.sleep(0.2)
    began = json.loads(file.read_bytes())
    differing = [name for name in settings if began["settings"].get(name) != settings[name]]
    if differing:
        why = f"the unfinished run in {file.parent} was started with other {', '.join(differing)}"
        raise UserError(f"-o {output}", why, "use the same again, or remove that folder")
    shards = Shards(output, began["recordings"], began["block"])
    if output.exists():  # killed before it could remove the shards
        shards.discard()
        return None
    return shards


def fingerprint(names: Sequence[str]) -> str:
    """Return a digest of a list of recordings and of their order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()


def weights(model: str) -> list[list[Any]]:
    """Return name, size and modification time of a model's files; nothing for a model on the Hub."""
    folder = Path(model)
    kinds = (".json", ".safetensors", ".bin", ".txt", ".onnx", ".data", ".xml")
    files = sorted(path for path in folder.glob("*") if path.suffix in kinds)
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _name(first: int, stop: int) -> str:
    return f"{first:09}-{stop:09}.part"
