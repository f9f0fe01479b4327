"""Headers of the clips of a dataset, which hold their audio or name a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sft_speech.audio.codecs import AudioError
from sft_speech.corpora import headers as header_index

if TYPE_CHECKING:
    import datasets

CLIPS = 32  # encoded clips that a thread, or a step of a stream, holds at a time


def checked(audio: Mapping[str, Any] | None, may_name: Callable[[str], bool]) -> Mapping[str, Any] | AudioError:
    """Return a row's audio, or an error if it names a file that it may not name; that file isn't opened."""
    audio = audio or {"path": None}
    path = audio.get("path")
    if audio.get("bytes") is not None or not path or may_name(path):
        return audio
    return AudioError("outside the corpus folder", f"it has a path, {path}, instead of audio; that file is not read")


class _Checked(Sequence[Any]):
    """The audio of rows, read and checked on access; or the error of a row that already has one."""

    def __init__(
        self, clips: datasets.Dataset, errors: Sequence[AudioError | None], may_name: Callable[[str], bool]
    ) -> None:
        self.rows, self.errors, self.may_name = clips["audio"], errors, may_name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Any) -> Any:
        found = [checked(audio, self.may_name) for audio in self.rows[places]]
        errors = self.errors[places] if self.errors else [None] * len(found)
        return [error or audio for error, audio in zip(errors, found, strict=True)]


def headers_of(
    clips: datasets.Dataset,
    errors: Sequence[AudioError | None],
    index: Path | None,
    may_name: Callable[[str], bool],
) -> pa.Table:
    """Return the headers of all clips, in their order.

    Args:
        errors: one per clip, None for no error; or empty.
    """
    known = header_index.load(index)
    if len(known) == len(clips):
        return known
    keys = np.arange(len(clips), dtype=np.uint64)
    new = np.flatnonzero(~np.isin(keys, known["key"].to_numpy()))  # all, or those that couldn't be read
    unread = _Checked(clips.select(new), [errors[place] for place in new.tolist()] if errors else [], may_name)
    fresh = header_index.probe_all(unread, keys[new], CLIPS)
    headers = pa.concat_tables([known, fresh]).sort_by("key")
    if index is not None:
        header_index.save(headers, index)
    return headers
