"""Recordings of files: all channels mixed, one of them, or each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_speech.audio.channels import MIX, name_of, number_of
from sft_speech.audio.read import AudioError, probe
from sft_speech.corpora.channels import warn_of_mixing
from sft_speech.corpora.headers import in_threads

SPLIT = "split"  # each channel on its own
_LOOKED_AT = 200  # files whose headers are read in search of several channels


@dataclass(frozen=True)
class FileChannel:
    """A file, or one channel of it.

    Args:
        path: the file.
        channel: counted from 0; None for all, mixed.
    """

    path: Path
    channel: int | None = None

    @property
    def audio(self) -> Path | dict[str, Any]:
        """The recording as models take it."""
        return self.path if self.channel is None else {"audio": self.path, "channel": self.channel}

    @property
    def named(self) -> Path:
        """A path that names the channel too: ``call.left.wav``."""
        if self.channel is None:
            return self.path
        return self.path.with_name(f"{self.path.stem}.{name_of(self.channel)}{self.path.suffix}")


def recordings_of(files: Sequence[Path], choice: str | None) -> list[FileChannel]:
    """Return the recordings of files.

    Args:
        choice: "left" or "right"; "mix"; "split" for each channel of those files that have several. None mixes, and
            warns if a sample of the files has channels that differ.
    """
    if choice == SPLIT:
        return [
            FileChannel(path, channel)
            for path, count in zip(files, _counts(files), strict=True)
            for channel in (range(count) if count > 1 else (None,))
        ]
    if choice is None:
        looked_at = files[:: max(1, len(files) // _LOOKED_AT)]
        mixed = [str(path) for path, count in zip(looked_at, _counts(looked_at), strict=True) if count > 1]
        if mixed:
            warn_of_mixing(mixed, "the recordings", "set --channel left, right or split")
    channel = None if choice in (None, MIX) else number_of(choice)
    return [FileChannel(path, channel) for path in files]


def _counts(files: Sequence[Path]) -> list[int]:
    """Return the number of channels of each file; 1 if it cannot be read."""
    return [count for block in in_threads(_channels, files) for count in block]


def _channels(files: Sequence[Path]) -> list[int]:
    found = []
    for path in files:
        try:
            found.append(probe(path).channels)
        except AudioError:
            found.append(1)
    return found
