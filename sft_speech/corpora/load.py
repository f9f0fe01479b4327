"""From a source to a corpus: list the rows, select some, read their headers, drop what cannot be used."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.units import seconds_of
from sft_speech.corpora import times
from sft_speech.corpora.archive import unpacked
from sft_speech.corpora.channels import ALL, Channels, Choice, nullable, own_ids
from sft_speech.corpora.columns import OPTIONAL, Columns, asked_for
from sft_speech.corpora.found import MISSING, find_missing
from sft_speech.corpora.headers import index_path, scan_files
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import CHANNEL, Listing, Source, column_of, corpus_of, is_text, not_duplicate, rows_of
from sft_speech.corpora.splits import Part, parse_split, unknown, which_split
from sft_speech.corpora.weights import WEIGHT, weights_of
from sft_speech.errors import UserError
from sft_speech.files import expanded

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_NO_KEY = 0  # of a file that is not there, see headers
_OVERHANG = 0.1  # seconds that a segment may reach past the end of its file; it is then cut there


def load_corpus(
    source: str | os.PathLike[str],
    split: str | None = None,
    *,
    name: str | None = None,
    config: str | None = None,
    columns: Columns | None = None,
    channel: Choice | None = None,
    streaming: bool = False,
    min_shards: int = 1,
    unlabelled: bool = False,
    report: CorpusReport | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Read a corpus: one row per utterance, no audio decoded, nothing copied.

    Args:
        source: a folder or manifest of one of the :data:`~sft_speech.corpora.layouts.LAYOUTS`, an archive of one (.tar,
            .tar.gz, .zip, ...: unpacked once, beside the cache of ``datasets``), or a dataset on the Hub.
        split: a subset, a range of rows or some speakers, see :func:`~sft_speech.corpora.splits.parse_split`. None
            takes all rows, if there is at most one subset, or if the subsets are those of a column ``split``.
        name: name of these rows in the report; by default ``split``, or else the name of the source.
        config: configuration of a dataset on the Hub, e.g. ``clean``.
        columns: the names of columns by their roles ``audio``, ``text``, ``speaker``, ``id``, ``start``, ``end``,
            ``split``, ``channel``, if the table has other names: ``{"text": "raw_transcription"}``; None if there may
            be no such column. ``label``, ``language`` and ``weight`` ask for these columns, see below.
        channel: the channel of rows that name none in a column ``channel``: "left", "right", or "mix" for all. None
            mixes them too, and warns if they differ.
        streaming: make the rows during iteration, for datasets too large for this disk; rows that cannot be used
            are then dropped on the way, and the same id may come twice.
        min_shards: the minimum number of shards of a stream, if possible, for as many readers.
        unlabelled: no transcripts are needed. Recordings in the folder of a corpus that its transcripts do not name are
            rows too, with text "", and a folder of recordings is a corpus.
        report: receives every dropped row; without a report they are logged.
        cache_dir: replaces the cache of ``datasets``, in which the index of headers is kept.

    Returns:
        rows {id, audio, text, speaker, seconds, start}: ``audio`` is ``{"path", "bytes"}``, ``speaker`` is "" if
        unknown, ``start`` is None for a whole file, else the segment's offset in seconds within the file. If
        ``columns`` names a ``label``, rows have it too, a string ("" for none), and need no transcript; several labels
        of a clip are joined by ``|``, see :func:`~sft_speech.corpora.columns.split_labels`. If it names a ``language``,
        rows have it as it is written, "" for none; if it names a ``weight``, or the table is one of pseudo-labels, as a
        number (:mod:`~sft_speech.corpora.weights`). Rows have a ``channel``, counted from 0, if any row has one or
        ``channel`` names it; it is None for all channels.

    Raises:
        UserError: no such source, split, speaker or column; an unknown layout; no usable row.
    """
    parts, shown = parse_split(split), expanded(os.fspath(source), "source")
    name = name or split or Path(shown).name
    columns = {"text": None, **(columns or {})} if unlabelled else columns
    rows_report = CorpusReport() if report is None else report
    if not is_text(os.path.abspath(shown)):
        raise UserError(shown, "its name is not UTF-8", "rename the folder")
    shown = unpacked(shown, cache_dir)
    local = open_source(shown, columns, cache_dir)
    if local is None:
        from sft_speech.corpora.hub import load_hub, stream_hub

        if streaming:
            return stream_hub(shown, parts, config, columns, rows_report, name, min_shards, channel)
        corpus = load_hub(shown, parts, config, columns, rows_report, name, cache_dir, channel)
    else:
        if config is not None:
            raise UserError(f"config {config!r}", f"{shown} has no configurations, as on the Hub", "leave config out")
        channels = Channels(channel, "channel" in (columns or {}), shown)
        local = WithBareRecordings(local) if unlabelled else local
        corpus = _load_local(local, shown, parts, columns, channels, rows_report, name, cache_dir)
    seconds = pc.sum(column_of(corpus, "seconds")).as_py() or 0.0
    rows_report.complete(name, len(corpus), seconds, shown, logged=report is None)
    pa.default_memory_pool().release_unused()  # of intermediate tables: 0.5 GB for a million rows
    return corpus.to_iterable_dataset(min(min_shards, len(corpus))) if streaming else corpus


class WithBareRecordings:
    """A corpus whose recordings without a transcript are rows too, with text ""."""

    def __init__(self, source: Source) -> None:
        self.source, self.whole = source, source.whole

    def splits(self) -> list[str]:
        """Return the names of its subsets."""
        return self.source.splits()

    def listing(self, split: str | None) -> Listing:
        """Return the rows of one subset, and after them its other recordings."""
        listing = self.source.listing(split)
        bare = {row.id: row.detail for row in listing.unlisted if os.path.isabs(row.detail)}
        nothing = [""] * len(bare)
        more = rows_of([*bare], [*bare.values()], nothing, nothing, listing.dropped)
        listing.rows = pa.concat_tables([listing.rows, more], promote_options="default")
        listing.unlisted = [row for row in listing.unlisted if row.id not in bare]
        return listing


def splits_of(
    source: str | os.PathLike[str], *, config: str | None = None, columns: Columns | None = None
) -> list[str]:
    """Return the names of a source's subsets; none if it has no subsets.

    Args:
        source, config, columns: as for :func:`load_corpus`.

    Raises:
        UserError: no such source, or an unknown layout.
    """
    opened = unpacked(expanded(os.fspath(source), "source"))
    local = open_source(opened, columns)
    if local is not None:
        return local.splits()
    from sft_speech.corpora.hub import split_names

    return split_names(opened, config)


def _load_local(
    source: Source,
    shown: str,
    parts: list[Part],
    columns: Columns | None,
    channels: Channels,
    report: CorpusReport,
    name: str,
    cache_dir: str | os.PathLike[str] | None,
) -> datasets.Dataset:
    tables: list[pa.Table] = []
    for part in parts:
        listing = _listing(source, part, shown)
        rows = listing.rows
        for role in asked_for(columns):
            rows = _with_role(rows, role, (columns or {})[role], shown)
        if WEIGHT in rows.column_names:
            place = rows.column_names.index(WEIGHT)
            rows = rows.set_column(place, WEIGHT, weights_of(rows[WEIGHT], rows["id"], shown))
        paths = pc.unique(rows["path"])
        # An index per subset: each stays valid whichever subsets are asked for together.
        indices = (index_path(cache_dir, Path(shown).absolute(), part, *more) for more in ((), ("found",)))
        files, headers = _headers(paths, Path(shown).absolute(), *indices)
        places = pc.index_in(rows["path"], paths)
        listed: set[str] = set()  # known by name only now
        if files is not paths:
            listed.update(files.filter(pc.not_equal(files, paths)).to_pylist())
            rows = rows.set_column(rows.column_names.index("path"), "path", files.take(places))
        for row in listing.dropped:
            if row.detail not in listed:
                report.drop(name, *row)
        of_channel = _with_channels(rows, headers.take(places), channels)
        tables.append(_with_lengths(*of_channel, report, name, listing.unit))
    table = pa.concat_tables(tables, promote_options="default")
    first = not_duplicate(table["id"], report, name)
    return corpus_of(table if first.all() else table.filter(pa.array(first)), cache_dir)


def _listing(source: Source, part: Part, shown: str) -> Listing:
    """Return the rows of one term of the split.

    Raises:
        UserError: there are splits and none is named, or the other way round; or there is no row.
    """
    splits, subset = source.splits(), part.name
    if subset is None and splits and not source.whole:
        if len(splits) > 1:
            raise UserError(shown, f"it has the splits {', '.join(splits)}", which_split(splits))
        subset = splits[0]
    if subset is not None and not splits:
        do = "leave split out, or use :0.9, [0.9:], speaker=NAME"
        raise UserError(shown, f"there is no split {subset!r}: it has no splits", do)
    if subset is None and len(splits) > 1:
        names = ", ".join(splits[:10])
        logger.warning("%s: rows of all its splits (%s) are taken, since none was named", shown, names)
    listing = source.listing(subset)
    if part.everything:
        listing.dropped += listing.unlisted
    else:
        mask = part.mask(listing.rows["id"], listing.rows["speaker"])
        listing.rows = listing.rows.filter(pa.array(mask))
    if not len(listing.rows) and not listing.dropped:
        raise UserError(shown, "an empty corpus: it lists no utterance", "add rows, or check the split")
    return listing


def _headers(paths: pa.Array, source: Path, index: Path, index_of_found: Path) -> tuple[pa.Array, pa.Table]:
    """Return the files that distinct paths stand for, and their headers; see :mod:`~sft_speech.corpora.found`.

    The files are ``paths`` itself if all of them exist.
    """
    names = paths.to_pylist()
    headers = scan_files(names, index)
    missing = np.flatnonzero(pc.fill_null(pc.equal(headers["reason"], MISSING), False).to_numpy()).tolist()
    if not missing:
        return paths, headers
    gone = {names[row]: row for row in missing}
    present = [path for path in names if path not in gone]
    found = find_missing(list(gone), present, str(source if source.is_dir() else source.parent))
    scanned = scan_files(list(found.paths.values()), index_of_found)
    why = [(_NO_KEY, 0, 1, 1, *found.why[path]) for path in found.why]
    unfound = pa.table([pa.array(column) for column in zip(*why, strict=True)], headers.schema) if why else scanned[:0]
    places = np.arange(len(names))
    for place, path in enumerate([*found.paths, *found.why], start=len(names)):
        places[gone[path]] = place
    files = pa.array([found.paths.get(path, path) for path in names], pa.string())
    return files, pa.concat_tables([headers, scanned, unfound]).take(pa.array(places))


def _with_channels(rows: pa.Table, headers: pa.Table, channels: Channels) -> tuple[pa.Table, pa.Table]:
    """Return rows with the numbers of their channels, if any has one, and headers that tell which have no such channel;
    warn about channels that are mixed.
    """
    given = rows[CHANNEL] if CHANNEL in rows.column_names else None
    numbers, headers = channels.of_rows(given, headers)
    mixed = headers["reason"].is_null().to_numpy() & (headers["channels"].to_numpy() > 1) & (numbers == ALL)
    if mixed.any():
        channels.warn_of_mixing(pc.unique(rows["path"].filter(pa.array(mixed))).to_pylist())
    rows = rows.drop([CHANNEL]) if given is not None else rows
    if (numbers == ALL).all():
        return rows, headers
    rows = rows.set_column(rows.column_names.index("id"), "id", own_ids(rows["id"], numbers))
    return rows.append_column(CHANNEL, nullable(numbers)), headers


def _with_role(rows: pa.Table, role: str, column: str | None, shown: str) -> pa.Table:
    """Return rows with the column of a role: the layout's own, or else a copy of another column.

    Raises:
        UserError: no such column.
    """
    if role in rows.column_names:
        return rows
    if column is None:
        return rows.append_column(role, pa.array([""] * len(rows), pa.string()))
    if column not in ("speaker", "text"):
        raise unknown("column", column, ("speaker", "text"), given=shown)
    return rows.append_column(role, rows[column])


def _with_lengths(rows: pa.Table, headers: pa.Table, report: CorpusReport, name: str, unit: str) -> pa.Table:
    """Return the rows of a corpus; those with a bad header or segment go to the report.

    Args:
        unit: of starts and ends, see :class:`Listing`.

    Raises:
        UserError: the unit of starts and ends cannot be known.
    """
    whole = seconds_of(headers["samples"].to_numpy(), headers["rate"].to_numpy())
    start, end = (rows[column].to_numpy() for column in ("start", "end"))  # NaN where null
    readable = headers["reason"].is_null().to_numpy()
    if unit == times.SAMPLES:
        start, end = start / headers["rate"].to_numpy(), end / headers["rate"].to_numpy()
    elif unit == times.UNKNOWN:
        known, rate = np.where(readable, whole, np.nan), headers["rate"].to_numpy()
        characters = pc.fill_null(pc.utf8_length(rows["text"]), 0).to_numpy()
        start, end, found = times.to_seconds(start, end, known, rate, characters, _OVERHANG)
        if found:
            logger.warning("%s: %s", name, found)
    segment = ~(np.isnan(start) & np.isnan(end))
    end, fits = times.within_files(start, end, whole, _OVERHANG)
    start = np.where(np.isnan(start), 0.0, start)
    outside = readable & segment & ~fits
    for row in np.flatnonzero(~readable):
        report.drop(name, rows["id"][row].as_py(), headers["reason"][row].as_py(), headers["detail"][row].as_py())
    for row in np.flatnonzero(outside):
        span = f"{start[row]:.2f} to {end[row]:.2f} s of a file of {whole[row]:.2f} s"
        report.drop(name, rows["id"][row].as_py(), "bad segment", span)
    nothing = pa.nulls(len(rows), pa.binary())
    columns = {
        name: rows[name] for name in ("id", "text", "speaker", *OPTIONAL, CHANNEL) if name in rows.column_names
    } | {
        "audio": pa.StructArray.from_arrays([nothing, rows["path"].combine_chunks()], ["bytes", "path"]),
        "seconds": np.minimum(end, whole) - start,
        "start": pa.array(start, mask=~segment),
    }
    return pa.table(columns).filter(pa.array(readable & ~outside))
