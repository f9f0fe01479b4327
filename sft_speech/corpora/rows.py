"""What every source of rows hands over before any audio file is opened, and the row that a corpus is made of."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.mapped import mapped
from sft_speech.corpora.report import Dropped

if TYPE_CHECKING:
    import datasets

# A segment has a start, an end or both, in seconds within its file; a row without is the whole file.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
    ]
)
COLUMNS = ("id", "audio", "text", "speaker", "seconds", "start")  # of a corpus


@dataclass
class Listing:
    """Rows as listed by a source, of :data:`SCHEMA`, and those that are wrong already.

    ``unlisted`` are audio files that no row speaks of: dropped rows too, unless only a part of the rows is asked for.
    """

    rows: pa.Table
    dropped: list[Dropped] = field(default_factory=list)
    unlisted: list[Dropped] = field(default_factory=list)


class Source(Protocol):
    """A corpus on disk."""

    def splits(self) -> list[str]:
        """Names of its subsets, sorted; none where it has no subsets."""

    def listing(self, split: str | None) -> Listing:
        """Its rows, or those of one subset, in an order that never changes."""


def rows_of(
    ids: list[str], paths: list[str], texts: list[str], speakers: list[str], dropped: list[Dropped]
) -> pa.Table:
    """A table of :data:`SCHEMA` of whole files; those whose names are no UTF-8, which no table holds, are dropped."""
    kept = [row for row in zip(ids, paths, texts, speakers, strict=True) if is_text(row[1])]
    if len(kept) < len(ids):
        dropped += [unnameable(id, path) for id, path in zip(ids, paths, strict=True) if not is_text(path)]
    nothing = pa.nulls(len(kept), pa.float64())
    columns = list(zip(*kept, strict=True)) or [()] * 4
    return pa.table([pa.array(column, pa.string()) for column in columns] + [nothing, nothing], SCHEMA)


def is_text(path: str) -> bool:
    """Whether a path is UTF-8; Python writes other bytes as halves of characters."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def unnameable(id: str, path: str) -> Dropped:
    """A file whose path is no UTF-8."""
    return Dropped(id, "bad file name", f"{path} is no UTF-8: rename it")


def features() -> datasets.Features:
    """The contract: what the columns of every corpus are."""
    import datasets

    text, number = datasets.Value("string"), datasets.Value("float64")
    audio = datasets.Audio(decode=False)
    return datasets.Features(dict(zip(COLUMNS, (text, audio, text, text, number, number), strict=True)))


def corpus_of(table: pa.Table, cache_dir: str | os.PathLike[str] | None = None) -> datasets.Dataset:
    """A corpus out of the columns that :func:`features` names; :func:`~sft_speech.corpora.mapped.mapped` if large."""
    import datasets

    info = datasets.DatasetInfo(features=features())
    table = table.select(COLUMNS).cast(features().arrow_schema)
    return datasets.Dataset(mapped(table, cache_dir), info=info, fingerprint=new_fingerprint())


def column_of(corpus: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A whole column, none of its values a Python object; ``with_format("arrow")`` makes one of every row selected."""
    column = corpus.data.column(name)
    return column if corpus._indices is None else column.take(corpus._indices.column(0))


def new_fingerprint() -> str:
    """What ``datasets`` tells tables apart by; left to itself it pickles the whole table to find one."""
    return uuid.uuid4().hex[:16]


def duplicate(id: str) -> Dropped:
    """A row whose id an earlier one has."""
    return Dropped(id, "duplicate id", "an earlier row has it")


def first_of_each(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Mask (rows,) of the rows whose id did not come before."""
    # The place of each row's id among the distinct ids, which are in order of appearance.
    first = pc.index_in(ids, pc.unique(ids))
    mask = np.zeros(len(ids), bool)
    mask[np.unique(first.to_numpy(zero_copy_only=False), return_index=True)[1]] = True
    return mask


def audio_files(folder: str | os.PathLike[str]) -> Iterable[str]:
    """Paths of the audio files in and below a folder, sorted within each folder."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(files) if is_audio(name))
