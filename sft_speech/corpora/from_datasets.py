"""Rows of a corpus from a ``datasets.Dataset`` or ``IterableDataset``: on the Hub, or made in Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.channels import missing
from sft_speech.audio.codecs import AudioError
from sft_speech.audio.read import probe
from sft_speech.audio.units import seconds_of
from sft_speech.corpora.channels import ALL, Channels, Choice, nullable, own_ids
from sft_speech.corpora.clip_headers import CLIPS, checked, headers_of
from sft_speech.corpora.columns import MANIFEST_ONLY, OPTIONAL, Columns, asked_for, find_columns, label_of
from sft_speech.corpora.encode import encoded, encoded_column
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import CHANNEL, column_of, features, not_duplicate, with_columns
from sft_speech.corpora.splits import Part
from sft_speech.corpora.weights import WEIGHT, weight_of, weights_of
from sft_speech.errors import UserError

if TYPE_CHECKING:
    import datasets

    AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.IterableDataset)

logger = logging.getLogger(__name__)

ROLES = ("audio", "text", "speaker", "id", *OPTIONAL, CHANNEL)
RATES = ("sampling_rate", "sample_rate")  # columns that may give the rate of plain arrays
_DISTINCT_IDS = 2 / 3  # of the rows; a column with fewer distinct values is not an id (in FLEURS it is the sentence's)


@dataclass(frozen=True)
class Request:
    """The settings for making rows from a dataset.

    Args:
        columns: the names of the columns by their roles.
        report: receives the dropped rows, under ``name``.
        shown: name of the dataset in errors.
        may_name: returns whether a row may name a file with this path instead of holding its audio.
        prefix: prefix of the ids of rows that have neither id nor path: ``prefix-00000000``.
        rate: samples per second of plain arrays.
        channel: the channel of rows that name none.
    """

    columns: Columns | None
    report: CorpusReport
    name: str
    shown: str
    may_name: Callable[[str], bool]
    prefix: str
    rate: int | None = None
    channel: Choice | None = None

    @property
    def channels(self) -> Channels:
        return Channels(self.channel, CHANNEL in (self.columns or {}), self.shown)


def nothing(path: str) -> bool:
    """Return False: no row may name a file."""
    return False


def anything(path: str) -> bool:
    """Return True: rows may name any file."""
    return True


def rows_of_dataset(
    dataset: AnyDataset,
    *,
    columns: Columns | None = None,
    rate: int | None = None,
    channel: Choice | None = None,
    name: str = "data",
    report: CorpusReport | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> AnyDataset:
    """Return a dataset's rows in the form of :func:`~sft_speech.corpora.load_corpus`; rows in that form pass unchanged.

    Audio may be paths, the bytes of files, a ``datasets.Audio`` column, or arrays: ``{"array", "sampling_rate"}``, or
    plain ones of a known rate. Files are neither decoded nor copied. Arrays become WAV files of 32-bit floats, see
    :func:`~sft_speech.audio.codecs.wav_bytes`.

    Args:
        dataset: has a column of audio and, if no label is asked for, one of transcripts.
        columns: the names of its columns by their roles ``audio``, ``text``, ``speaker``, ``id``, ``label``,
            ``language``, as ``load_corpus`` takes them.
        rate: samples per second of plain arrays, if no column ``sampling_rate`` gives it.
        channel: as for ``load_corpus``.
        name: name of these rows in the report.
        report: receives every dropped row; without a report they are logged.
        cache_dir: as for ``load_corpus``.

    Returns:
        a Dataset if one was given; otherwise an IterableDataset, whose rows are checked during iteration.

    Raises:
        UserError: not a dataset, no such column, or no usable row.
    """
    import datasets

    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        kind = type(dataset).__name__
        do = "give one of its splits" if isinstance(dataset, dict) else "give a datasets.Dataset or IterableDataset"
        raise UserError(f"dataset {name}", f"its type is {kind}", do)
    request = Request(
        columns,
        CorpusReport() if report is None else report,
        name,
        f"dataset {name}",
        anything if _is_own(dataset) else nothing,
        name,
        rate,
        channel,
    )
    if isinstance(dataset, datasets.IterableDataset):
        return dataset if _is_corpus(dataset, columns) else stream_rows(dataset, request)
    if _is_corpus(dataset, columns):
        dataset = _with_choice(dataset, request.channels, cache_dir)
    else:
        dataset = without_duplicates(table_rows(dataset, Part(), request, cache_dir), request)
    seconds = pc.sum(column_of(dataset, "seconds")).as_py() or 0.0
    request.report.complete(name, len(dataset), seconds, request.shown, logged=report is None)
    return dataset


def without_duplicates(corpus: datasets.Dataset, request: Request) -> datasets.Dataset:
    """Return the first row of each id; the others go to the report."""
    first = not_duplicate(column_of(corpus, "id"), request.report, request.name)
    return corpus if first.all() else corpus.select(np.flatnonzero(first))


def _is_corpus(dataset: AnyDataset, columns: Columns | None) -> bool:
    """Return whether the rows already have the requested columns."""
    found, wanted = dataset.features or {}, features(*asked_for(columns))
    return all(found.get(column) == kind for column, kind in wanted.items())


def _is_own(dataset: AnyDataset) -> bool:
    """Return whether a row may name an audio file instead of holding it.

    Rows made in Python may, and so may those of files that ``datasets`` itself has downloaded or of tables given to a
    loader of ``datasets`` by their paths; but not those of a repository, which may be anyone's.
    """
    info = dataset.info
    return info.builder_name in (None, "generator", "audiofolder", info.dataset_name)


def table_rows(
    dataset: datasets.Dataset,
    part: Part,
    request: Request,
    cache_dir: str | os.PathLike[str] | None,
    index: Path | None = None,
) -> datasets.Dataset:
    """Return the rows of a part of a dataset; those that cannot be used go to the report.

    Args:
        index: file in which headers are cached; it must belong to this very dataset and part.
    """
    further = asked_for(request.columns)
    found, dataset = _find(dataset, request)
    audio, errors = encoded_column(dataset, found, request.rate)
    texts = _texts(dataset, found, audio, request, further)
    chosen = np.flatnonzero(part.mask(texts["id"], texts["speaker"]))
    clips = audio if part.everything else audio.select(chosen)
    headers = headers_of(clips, [errors.get(row) for row in chosen.tolist()] if errors else [], index, request.may_name)
    readable = headers["reason"].is_null().to_numpy()
    for place in np.flatnonzero(~readable):
        reason, detail = (headers[column][place].as_py() for column in ("reason", "detail"))
        request.report.drop(request.name, texts["id"][chosen[place]].as_py(), reason, detail)
    seconds = np.full(len(texts), np.nan)
    seconds[chosen] = seconds_of(headers["samples"].to_numpy(), headers["rate"].to_numpy())
    texts = texts.append_column("seconds", pa.array(seconds)).append_column("start", pa.nulls(len(texts), pa.float64()))
    numbers = np.full(len(texts), ALL)
    numbers[chosen], headers = request.channels.of_rows(
        texts[CHANNEL].take(pa.array(chosen)) if CHANNEL in texts.column_names else None, headers
    )
    _report_mixing(clips, headers, numbers[chosen], request.channels)
    texts = texts.drop([CHANNEL]) if CHANNEL in texts.column_names else texts
    if (numbers != ALL).any():
        further = (*further, CHANNEL)
        texts = texts.set_column(0, "id", own_ids(texts["id"], numbers)).append_column(CHANNEL, nullable(numbers))
    # Join texts and audio before rows are left out: in the other order, the audio would be copied.
    corpus = with_columns(audio, texts, cache_dir).select_columns(list(features(*further)))
    kept = chosen[readable]
    return corpus if len(kept) == len(corpus) else corpus.select(kept)


def _report_mixing(clips: datasets.Dataset, headers: pa.Table, numbers: np.ndarray, channels: Channels) -> None:
    mixed = headers["reason"].is_null().to_numpy() & (headers["channels"].to_numpy() > 1) & (numbers == ALL)
    if mixed.any():
        channels.warn_of_mixing(clips.select(np.flatnonzero(mixed))["audio"])


def _with_choice(
    corpus: datasets.Dataset, channels: Channels, cache_dir: str | os.PathLike[str] | None
) -> datasets.Dataset:
    """Return the rows of a corpus, of which those without a channel have the one that was chosen."""
    chosen = channels.of_value("")
    if chosen == ALL:
        return corpus
    own = column_of(corpus, CHANNEL) if CHANNEL in corpus.column_names else pa.nulls(len(corpus), pa.int64())
    return with_columns(corpus, pa.table({CHANNEL: pc.fill_null(own, chosen)}), cache_dir)


def stream_rows(dataset: datasets.IterableDataset, request: Request) -> datasets.IterableDataset:
    """Return the rows of a stream; they are made, and unusable ones dropped, during iteration."""
    import datasets

    found, dataset = _find(dataset, request)
    names = {role: _class_names(dataset.features[found[role]]) for role in OPTIONAL if role in found}
    stream = dataset.select_columns(list(dict.fromkeys(found.values())))
    if isinstance(stream.features[found["audio"]], datasets.Audio):
        stream = stream.cast_column(found["audio"], datasets.Audio(decode=False))
    has_channel = CHANNEL in found or request.channels.of_value("") != ALL
    wanted = features(*asked_for(request.columns), *((CHANNEL,) if has_channel else ()))
    return stream.map(
        _RowMaker(found, list(wanted), names, request),
        with_indices=True,
        batched=True,
        batch_size=CLIPS,
        features=wanted,
        remove_columns=stream.column_names,
    )


class _RowMaker:
    """Makes rows of a corpus from those of a stream, and leaves out unusable ones."""

    def __init__(
        self, found: Mapping[str, str], columns: Sequence[str], names: Mapping[str, Sequence[str]], request: Request
    ) -> None:
        self.found, self.columns, self.names, self.request = found, columns, names, request

    def __call__(self, batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {column: [] for column in self.columns}
        request = self.request
        for place, number in enumerate(numbers):
            given = {ours: batch[theirs][place] for ours, theirs in self.found.items()}
            path = given["audio"].get("path") if isinstance(given["audio"], Mapping) else None
            id = str(given.get("id") or path or f"{request.prefix}-{number:08d}")
            try:
                audio = encoded(given["audio"], given.get("rate", request.rate))
                clip = checked(audio, request.may_name)
                if isinstance(clip, AudioError):
                    raise clip
                header = probe(clip)
                channel = self.channel(given, header.channels)
                if header.silent:
                    raise AudioError("silent", "nothing is louder than -80 dB")
            except AudioError as error:
                request.report.drop(request.name, id, error.reason, str(error))
                logger.warning("%s is left out: %s (%s)", id, error.reason, error)
                continue
            row = {"id": id, "audio": audio, "seconds": header.seconds, "start": None, CHANNEL: channel}
            row |= {column: label_of(given.get(column)) for column in ("text", "speaker")}
            row |= {role: label_of(given.get(role), self.names.get(role, ())) for role in OPTIONAL}
            if WEIGHT in self.columns:
                row[WEIGHT] = weight_of(str(row[WEIGHT]), id, request.shown)
            for column in self.columns:
                rows[column].append(row[column])
        return rows

    def channel(self, given: Mapping[str, Any], channels: int) -> int | None:
        """Return the channel of a row.

        Raises:
            AudioError: there is none of this name.
        """
        try:
            number = self.request.channels.of_value(label_of(given.get(CHANNEL)))
        except (ValueError, OverflowError) as error:
            if CHANNEL not in (self.request.columns or {}):
                return None  # the column holds something else
            raise AudioError("no such channel", f"{given[CHANNEL]!r}: write 0 or left, 1 or right") from error
        if number >= channels:
            raise missing(number, channels)
        return None if number == ALL else number


# ---- columns ----


def _find(dataset: AnyDataset, request: Request) -> tuple[dict[str, str], AnyDataset]:
    """Map our names of the columns to the dataset's. Return the map, and the dataset with known types and no format.

    Raises:
        UserError: no such column, or no candidate for one.
    """
    import datasets

    for role in MANIFEST_ONLY:
        if role in (request.columns or {}):
            what = "splits by a column" if role == "split" else "segments"
            raise UserError(f"columns {role}", f"{what} are read from manifests only", "leave it out")
    dataset = dataset.with_format(None)
    if dataset.features is None:
        try:
            dataset = dataset._resolve_features()
        except (pa.ArrowException, StopIteration) as error:
            why = f"the types of its columns cannot be determined from its first rows: {error}"
            raise UserError(request.shown, why, "give it features, or audio as waveforms of one channel") from error
    typed = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Audio)]
    given = dict(request.columns or {})
    if "audio" not in given and len(typed) == 1:
        given["audio"] = typed[0]
    known = find_columns(dataset.features, given, request.shown, segments=False)
    found = {ours: theirs for ours, theirs in known.items() if ours in ROLES}
    rates = [column for column in RATES if column in dataset.features]
    return found | ({"rate": rates[0]} if rates else {}), dataset


def _texts(
    dataset: datasets.Dataset,
    found: Mapping[str, str],
    audio: datasets.Dataset,
    request: Request,
    further: Sequence[str],
) -> pa.Table:
    """Return the columns id, text, speaker and further ones of `OPTIONAL`: as strings, but for the weights."""
    empty = pa.array([""] * len(dataset), pa.string())
    columns = {}
    for ours in ("text", "speaker"):
        columns[ours] = _strings(dataset, found[ours]) if ours in found else empty
    if CHANNEL in found:
        values = column_of(dataset, found[CHANNEL]).to_pylist()
        columns[CHANNEL] = pa.array([label_of(value, ()) for value in values], pa.string())
    for ours in further:
        columns[ours] = empty
        if ours in found:
            names, values = _class_names(dataset.features[found[ours]]), column_of(dataset, found[ours])
            columns[ours] = pa.array([label_of(value, names) for value in values.to_pylist()], pa.string())
    ids = _ids(dataset, found, audio, request.prefix)
    if WEIGHT in columns:
        columns[WEIGHT] = weights_of(columns[WEIGHT], ids, request.shown)
    return pa.table({"id": ids, **columns})


def _strings(dataset: datasets.Dataset, column: str) -> pa.ChunkedArray:
    try:
        return pc.fill_null(pc.cast(column_of(dataset, column), pa.string()), "")
    except pa.ArrowException as error:
        kind = dataset.features[column]
        raise UserError(f"column {column}", f"it holds no text: {kind}", "name another column") from error


def _class_names(feature: Any) -> Sequence[str]:
    """Return the names of a column of classes, or of lists of them; an empty sequence for other columns."""
    return getattr(getattr(feature, "feature", feature), "names", None) or ()


def _ids(
    dataset: datasets.Dataset, found: Mapping[str, str], audio: datasets.Dataset, prefix: str
) -> pa.Array | pa.ChunkedArray:
    """Return the column of ids, or else the paths if they are distinct, or else numbers."""
    if "id" in found:
        ids = column_of(dataset, found["id"])
        ids = pc.fill_null(pc.struct_field(ids, "path") if pa.types.is_struct(ids.type) else ids.cast(pa.string()), "")
        distinct = len(pc.unique(ids))
        if distinct >= _DISTINCT_IDS * len(ids):
            return ids
        logger.info("column %r has %d values in %d rows: it is not an id", found["id"], distinct, len(ids))
    paths = pc.struct_field(audio.data.column("audio"), "path")
    paths = paths if audio._indices is None else paths.take(audio._indices.column(0))
    if not paths.null_count and len(pc.unique(paths)) == len(paths):
        return paths
    return pa.array([f"{prefix}-{row:08d}" for row in range(len(dataset))], pa.string())
