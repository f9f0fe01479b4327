"""The rows of a corpus, and what the layouts list before any audio file is opened."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.codecs import is_audio
from sft_speech.corpora.columns import OPTIONAL, Columns
from sft_speech.corpora.mapped import mapped
from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.corpora.weights import WEIGHT

if TYPE_CHECKING:
    import datasets

# A segment has a start, an end or both, in seconds within its file; a row without them is a whole file. Labels
# and languages are further columns, if they are asked for.
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
COLUMNS = ("id", "audio", "text", "speaker", "seconds", "start")  # of a corpus; those of `OPTIONAL` follow


CHANNEL = "channel"  # a further column if a row or an option names one: a number from 0, null for all channels


@dataclass
class Listing:
    """The rows that a source lists, of :data:`SCHEMA`, and those dropped so far.

    ``unlisted`` are audio files without a row: dropped as well, unless only a part of the rows is asked for. ``unit``
    is that of starts and ends: seconds, or ``samples`` or ``unknown`` of :mod:`~sft_speech.corpora.times`.
    """

    rows: pa.Table
    dropped: list[Dropped] = field(default_factory=list)
    unlisted: list[Dropped] = field(default_factory=list)
    unit: str = "seconds"


class Source(Protocol):
    """A corpus on disk."""

    @property
    def whole(self) -> bool:
        """Whether the rows of all its subsets can be taken together."""

    def splits(self) -> list[str]:
        """Return the names of its subsets, sorted; none if it has no subsets."""

    def listing(self, split: str | None) -> Listing:
        """Return its rows, or those of one subset, always in the same order."""


class Layout(NamedTuple):
    """A kind of corpus that can be read from disk.

    Args:
        expected: what it looks like, for errors.
        find: returns the file or folder by which a path is recognized as this layout, or None.
        open: returns the rows; None if the ``datasets`` library reads them.
        fallback: it is looked for only if no layout of a lower number was found: 1 for annotations with times, which
            may also come with another layout, 2 for texts beside recordings, 3 for labels.
        unpacks: ``open`` takes the cache for unpacked archives as a third argument.
    """

    expected: str
    find: Callable[[Path, Columns], Path | None]
    open: Callable[..., Source | None]
    fallback: int = 0
    unpacks: bool = False


def rows_of(
    ids: list[str], paths: list[str], texts: list[str], speakers: list[str], dropped: list[Dropped]
) -> pa.Table:
    """Return whole files as a table of :data:`SCHEMA`; files whose names aren't UTF-8 are added to ``dropped``."""
    columns, named = [ids, paths, texts, speakers], [*map(is_text, paths)]
    if not all(named):
        dropped += [unnameable(id, path) for id, path, kept in zip(ids, paths, named, strict=True) if not kept]
        columns = [[*compress(column, named)] for column in columns]
    nothing = pa.nulls(len(columns[0]), pa.float64())
    return pa.table([pa.array(column, pa.string()) for column in columns] + [nothing, nothing], SCHEMA)


def is_text(path: str) -> bool:
    """Return whether a path is UTF-8; Python represents other bytes as surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def unnameable(id: str, path: str) -> Dropped:
    """Return the dropped row of a file whose path isn't UTF-8."""
    return Dropped(id, "bad file name", f"{path} is not UTF-8: rename it")


def features(*roles: str) -> datasets.Features:
    """Return the types of a corpus's columns; ``roles`` are those of `OPTIONAL` that it has, and the channel."""
    import datasets

    text, number = datasets.Value("string"), datasets.Value("float64")
    audio = datasets.Audio(decode=False)
    columns = dict(zip(COLUMNS, (text, audio, text, text, number, number), strict=True))
    further = {role: {CHANNEL: datasets.Value("int64"), WEIGHT: number}.get(role, text) for role in roles}
    return datasets.Features(columns | further)


def corpus_of(table: pa.Table, cache_dir: str | os.PathLike[str] | None = None) -> datasets.Dataset:
    """Return the corpus of a table that has the columns of :func:`features`, mapped from a file if it is large."""
    import datasets

    types = features(*(role for role in (*OPTIONAL, CHANNEL) if role in table.column_names))
    table = table.select(list(types)).cast(types.arrow_schema)
    info = datasets.DatasetInfo(features=types)
    return datasets.Dataset(mapped(table, cache_dir), info=info, fingerprint=new_fingerprint())


def column_of(corpus: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """Return a whole column of the rows selected, without making Python objects of its values."""
    column = corpus.data.column(name)
    return column if corpus._indices is None else column.take(corpus._indices.column(0))


def with_columns(
    corpus: datasets.Dataset, columns: pa.Table, cache_dir: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Return the same rows with columns of strings or numbers added or replaced.

    ``Dataset.add_column`` and ``concatenate_datasets`` would copy the audio of a corpus that leaves rows out; this
    copies nothing.

    Args:
        columns: table with one value per row of the corpus.
    """
    import datasets

    types = {**corpus.features, **datasets.Features.from_arrow_schema(columns.schema)}
    if corpus._indices is not None:  # rows of the corpus to rows of the table below it
        places = np.full(corpus.data.num_rows, -1)
        places[corpus._indices.column(0).to_numpy()] = np.arange(len(corpus))
        columns = columns.take(pa.array(places, mask=places < 0))
    kept = corpus.data.drop([name for name in columns.column_names if name in corpus.column_names])
    table = datasets.table.concat_tables([kept, mapped(columns, cache_dir)], axis=1) if kept.num_columns else columns
    info = corpus.info.copy()
    info.features = datasets.Features({name: types[name] for name in table.column_names})
    return datasets.Dataset(
        table, info, corpus.split, indices_table=corpus._indices, fingerprint=new_fingerprint()
    ).select_columns(list(types))


def new_fingerprint() -> str:
    """Return a name by which ``datasets`` tells tables apart; its own would need pickling the whole table."""
    return uuid.uuid4().hex[:16]


def not_duplicate(ids: pa.Array | pa.ChunkedArray, report: CorpusReport, name: str) -> np.ndarray:
    """Return a mask (rows,) of the rows whose id no earlier row has; the others go to the report."""
    # The index of each row's id among the distinct ids, which are in order of appearance.
    first = pc.index_in(ids, pc.unique(ids))
    mask = np.zeros(len(ids), bool)
    mask[np.unique(first.to_numpy(zero_copy_only=False), return_index=True)[1]] = True
    for row in np.flatnonzero(~mask):
        report.drop(name, ids[row].as_py(), "duplicate id", "an earlier row has it")
    return mask


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, sorted by name, without those that are hidden; none of a file."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # much faster than `Path.iterdir` if there are many files
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    return [folder / name for name in names]


def audio_files(folder: str | os.PathLike[str]) -> Iterable[str]:
    """Yield the paths of the audio files in and below a folder, sorted within each folder."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(files) if is_audio(name))
