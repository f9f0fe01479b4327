"""From a source to a corpus: rows listed, selected, their headers read, what can't be used dropped."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.units import seconds_of
from sft_speech.corpora.archive import unpacked
from sft_speech.corpora.headers import index_path, scan_files
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import Listing, Source, column_of, corpus_of, duplicate, first_of_each, is_text
from sft_speech.corpora.splits import Part, parse_split
from sft_speech.errors import UserError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_OVERHANG = 0.1  # seconds that a segment may reach past the end of its file; it is then cut there


def load_corpus(
    source: str | os.PathLike[str],
    split: str | None = None,
    *,
    name: str | None = None,
    config: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    streaming: bool = False,
    min_shards: int = 1,
    report: CorpusReport | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Reads a corpus: one row per utterance, no audio decoded, nothing copied.

    Args:
        source: a folder (LibriSpeech, LibriTTS, LJSpeech, audiofolder or parquet files, told apart by what is in it), a
            manifest (.csv, .tsv, .jsonl; paths relative to it, in its folder, or absolute; segments by ``start`` and
            ``end`` in seconds), an archive of one of these (.tar, .tar.gz, .zip, ...: unpacked once, beside the cache
            of ``datasets``), or a dataset on the Hub.
        split: a subset; or several joined by ``+``, each with an optional range of rows: ``train-clean-100:0.1`` is a
            tenth of it, ``train-clean-100:200`` are 200 rows of it, ``train-clean-100[0.1:]`` is the rest of the
            tenth. Where there are no subsets: ``:0.9`` and ``[0.9:]`` part the rows in two, ``speaker=anna,bob`` takes
            those of some speakers (``speaker=anna,bob:100``: 100 of them). A range is spread over the corpus by a hash
            of the ids, always the same one. None takes all there is, if there is one subset at most.
        name: what the report calls these rows; ``split``, or else the name of the source.
        config: configuration of a dataset on the Hub, e.g. ``clean``.
        columns: where they are called otherwise, the names of the columns for ``audio``, ``text``, ``speaker``,
            ``id``, ``start``, ``end``, e.g. ``{"text": "raw_transcription"}``; None where there may be no such column.
        streaming: rows are made while they are iterated, for datasets too large for this disk; rows that can't be used
            are then dropped on the way, and the same id may come twice.
        min_shards: into how many shards, at least, a stream is cut where that is possible, for as many readers.
        report: gets every dropped row; without one they are logged.
        cache_dir: in place of the cache of ``datasets``, beside which the index of headers is kept.

    Returns:
        rows {id, audio, text, speaker, seconds, start}: ``audio`` is ``{"path", "bytes"}``, ``speaker`` is ""
        where unknown, ``start`` is None for a whole file, else the segment's offset in seconds within the file.

    Raises:
        UserError: no such source, split, speaker or column; a layout that isn't known; no row that can be used.
    """
    parts = parse_split(split)
    shown = os.fspath(source)
    name = name or split or Path(shown).name
    own_report = CorpusReport() if report is None else report
    if not is_text(os.path.abspath(shown)):
        raise UserError(shown, "its name is no UTF-8", "rename the folder")
    shown = unpacked(shown, cache_dir)
    local = open_source(shown, columns)
    if local is None:
        from sft_speech.corpora.hub import load_hub, stream_hub

        if streaming:
            return stream_hub(shown, parts, config, columns, own_report, name, min_shards)
        corpus = load_hub(shown, parts, config, columns, own_report, name, cache_dir)
    else:
        if config is not None:
            raise UserError(
                f"config {config!r}", f"{shown} is no dataset on the Hub, it has no configurations", "leave config out"
            )
        corpus = _load_local(local, shown, parts, own_report, name, cache_dir)
    _check(corpus, shown, own_report, name, logged=report is None)
    pa.default_memory_pool().release_unused()  # of the tables that this one was made of: 0.5 GB in a million rows
    return corpus.to_iterable_dataset(min(min_shards, len(corpus))) if streaming else corpus


def splits_of(
    source: str | os.PathLike[str], *, config: str | None = None, columns: Mapping[str, str | None] | None = None
) -> list[str]:
    """The names of a source's subsets; none where it has no subsets.

    Args:
        source, config, columns: as :func:`load_corpus` takes them.

    Raises:
        UserError: no such source, or no layout that is known.
    """
    opened = unpacked(os.fspath(source))
    local = open_source(opened, columns)
    if local is not None:
        return local.splits()
    from sft_speech.corpora.hub import split_names

    return split_names(opened, config)


def _check(corpus: datasets.Dataset, shown: str, report: CorpusReport, name: str, logged: bool) -> None:
    """Completes the report; a corpus without rows is an error."""
    report.keep(name, len(corpus), pc.sum(column_of(corpus, "seconds")).as_py() or 0.0)
    if len(corpus) == 0:
        raise UserError(f"corpus {name}", f"no row of {shown} can be used\n{report.table()}", "see the reasons above")
    if logged and report.dropped(name):
        logger.warning("rows that can't be used were dropped:\n%s", report.table())


def _load_local(
    source: Source,
    shown: str,
    parts: list[Part],
    report: CorpusReport,
    name: str,
    cache_dir: str | os.PathLike[str] | None,
) -> datasets.Dataset:
    tables = []
    for part in parts:
        listing = _listing(source, part, shown)
        paths = pc.unique(listing.rows["path"])
        # An index per subset: each stays valid whichever subsets are asked for together.
        index = index_path(cache_dir, Path(shown).absolute(), part)
        headers = scan_files(paths.to_pylist(), index).take(pc.index_in(listing.rows["path"], paths))
        for row in listing.dropped:
            report.drop(name, *row)
        tables.append(_with_lengths(listing.rows, headers, report, name))
    table = without_duplicates(pa.concat_tables(tables), report, name)
    return corpus_of(table, cache_dir)


def _listing(source: Source, part: Part, shown: str) -> Listing:
    """The rows of one term of the split."""
    splits = source.splits()
    subset = part.name
    if subset is None and len(splits) > 1:
        raise UserError(
            shown,
            f"it has the splits {', '.join(splits)}",
            f"say which, or several joined by +: split={'+'.join(splits[:2])}",
        )
    if subset is None and splits:
        subset = splits[0]
    if subset is not None and not splits:
        raise UserError(
            shown,
            f"there is no split {subset!r}: it has no splits",
            "leave split out, or use :0.9, [0.9:], speaker=NAME",
        )
    listing = source.listing(subset)
    if part.everything:
        listing.dropped += listing.unlisted
    else:
        mask = part.mask(listing.rows["id"], listing.rows["speaker"])
        listing.rows = listing.rows.filter(pa.array(mask))
    if not len(listing.rows) and not listing.dropped:
        raise UserError(shown, "an empty corpus: it lists no utterance", "add rows, or check the split")
    return listing


def _with_lengths(rows: pa.Table, headers: pa.Table, report: CorpusReport, name: str) -> pa.Table:
    """Rows of a corpus; what its header or its segment makes impossible goes to the report."""
    whole = seconds_of(headers["samples"].to_numpy(), headers["rate"].to_numpy())
    start, end = (rows[column].to_numpy() for column in ("start", "end"))  # NaN where null
    segment = ~(np.isnan(start) & np.isnan(end))
    start = np.where(np.isnan(start), 0.0, start)
    end = np.where(np.isnan(end), whole, end)
    readable = headers["reason"].is_null().to_numpy()
    outside = readable & segment & ((end <= start) | (end > whole + _OVERHANG) | (start >= whole))
    for row in np.flatnonzero(~readable):
        report.drop(name, rows["id"][row].as_py(), headers["reason"][row].as_py(), headers["detail"][row].as_py())
    for row in np.flatnonzero(outside):
        span = f"{start[row]:.2f} to {end[row]:.2f} s of a file of {whole[row]:.2f} s"
        report.drop(name, rows["id"][row].as_py(), "bad segment", span)
    nothing = pa.nulls(len(rows), pa.binary())
    columns = {
        "id": rows["id"],
        "audio": pa.StructArray.from_arrays([nothing, rows["path"].combine_chunks()], ["bytes", "path"]),
        "text": rows["text"],
        "speaker": rows["speaker"],
        "seconds": np.minimum(end, whole) - start,
        "start": pa.array(start, mask=~segment),
    }
    return pa.table(columns).filter(pa.array(readable & ~outside))


def without_duplicates(table: pa.Table, report: CorpusReport, name: str) -> pa.Table:
    """Of rows with the same id the first stays."""
    first = first_of_each(table["id"])
    for row in np.flatnonzero(~first):
        report.drop(name, *duplicate(table["id"][row].as_py()))
    return table if first.all() else table.filter(pa.array(first))
