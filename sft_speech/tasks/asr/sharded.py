"""Transcripts of many recordings in one file, by any number of processes: see :mod:`sft_speech.inference.shards`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from sft_speech.inference.processes import Process
from sft_speech.inference.shards import Shards

if TYPE_CHECKING:
    from sft_speech.inference.clips import Audio
    from sft_speech.tasks.asr.transcriber import Transcriber, Transcription

logger = logging.getLogger(__name__)


class Recordings(Protocol):
    """All recordings of a run, a list or rows that are read when they are needed."""

    def __getitem__(self, part: slice, /) -> Iterable[Audio]: ...


HOW_TO_RESUME = "the same command with --resume continues it"


def transcribe_missing(
    run: Shards,
    audios: Recordings,
    process: Process,
    transcriber: Callable[[], Transcriber],
    line: Callable[[Transcription], bytes],
    failed: Callable[[bytes], bool],
    progress: Callable[[float], Any],
) -> int | None:
    """Transcribe a process's share of what a run lacks, and merge the shards if they are then complete.

    Args:
        audios: all recordings.
        transcriber: loads the model; not called if nothing is missing.
        line: returns the line of a recording.
        failed: returns whether a line belongs to a recording that could not be read.
        progress: called with the seconds of audio of each batch.

    Returns:
        The number of recordings that could be read; None if shards of others are missing, or another process has
        merged them.
    """
    try:
        missing = run.missing(process.rank, process.world)
        blocks = (audios[first:stop] for first, stop in missing)
        pools = transcriber().pools(blocks, progress=progress) if missing else iter(())
        for first, stop in missing:
            while first < stop:
                pool = next(pools)
                run.write(first, [line(transcription) for transcription in pool])
                first += len(pool)
        return run.merge(failed)
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and run.output.exists():
            return None
        if process.world == 1:
            unfinished(run)
        raise


def unfinished(run: Shards) -> int:
    """Log how to resume, unless there is nothing to resume; return the exit code."""
    if run.empty:
        run.discard()
        logger.error("nothing was transcribed: see the messages above")
    else:
        logger.error("%s is unfinished: %s", run.output, HOW_TO_RESUME)
    return 1


def failed_line(line: bytes) -> bool:
    """Return whether a line of JSONL belongs to a recording that could not be read."""
    return b'"error": ' in line and not json.loads(line)["seconds"]
