"""Corpora that the ``datasets`` library reads: on the Hub, or local folders of parquet files of the same form.

Whole ones lie in the cache of ``datasets``, their audio as it was encoded, mapped into memory; streamed ones nowhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.read import AudioError, probe
from sft_speech.audio.units import seconds_of
from sft_speech.corpora import headers as header_index
from sft_speech.corpora.columns import find_columns
from sft_speech.corpora.mapped import mapped
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import COLUMNS, column_of, duplicate, features, first_of_each, new_fingerprint
from sft_speech.corpora.splits import Part, unknown
from sft_speech.errors import UserError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_CLIPS = 32  # encoded clips that a thread holds at a time
_DISTINCT_IDS = 2 / 3  # a share of the rows; with fewer of them the column says something else (FLEURS: the sentence)
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")


def load_hub(
    source: str,
    parts: list[Part],
    config: str | None,
    columns: Mapping[str, str | None] | None,
    report: CorpusReport,
    name: str,
    cache_dir: str | os.PathLike[str] | None,
) -> datasets.Dataset:
    """The corpus made of the terms of a split, see :func:`~sft_speech.corpora.load_corpus`."""
    import datasets

    loaded = [_load_part(source, part, config, columns, report, name, cache_dir) for part in parts]
    corpus = datasets.concatenate_datasets(loaded) if len(loaded) > 1 else loaded[0]
    ids = column_of(corpus, "id")
    first = first_of_each(ids)
    for row in np.flatnonzero(~first):
        report.drop(name, *duplicate(ids[row].as_py()))
    return corpus if first.all() else corpus.select(np.flatnonzero(first))


def _load_part(
    source: str,
    part: Part,
    config: str | None,
    columns: Mapping[str, str | None] | None,
    report: CorpusReport,
    name: str,
    cache_dir: str | os.PathLike[str] | None,
) -> datasets.Dataset:
    import datasets

    dataset = _open(source, config, part.name, cache_dir)
    found, audio = _audio_of(dataset, columns, source)
    texts = _texts(dataset, found, part.name or "row")
    chosen = np.flatnonzero(part.mask(texts["id"], texts["speaker"]))
    clips = audio if part.everything else audio.select(chosen)
    may_name = _may_name_files(source, dataset)
    index = header_index.index_path(cache_dir, source, config, part, may_name, *_versions(dataset))
    headers = _headers(clips, index, may_name)
    readable = headers["reason"].is_null().to_numpy()
    for place in np.flatnonzero(~readable):
        reason, detail = (headers[column][place].as_py() for column in ("reason", "detail"))
        report.drop(name, texts["id"][chosen[place]].as_py(), reason, detail)
    seconds = np.full(len(texts), np.nan)
    seconds[chosen] = seconds_of(headers["samples"].to_numpy(), headers["rate"].to_numpy())
    texts = texts.append_column("seconds", pa.array(seconds)).append_column("start", pa.nulls(len(texts), pa.float64()))
    # The texts are set beside the audio before rows are left out: the other way round would copy the audio.
    corpus = datasets.concatenate_datasets(
        [audio, datasets.Dataset(mapped(texts, cache_dir), fingerprint=new_fingerprint())], axis=1
    ).select_columns(list(COLUMNS))
    kept = chosen[readable]
    return corpus if len(kept) == len(corpus) else corpus.select(kept)


def stream_hub(
    source: str,
    parts: list[Part],
    config: str | None,
    columns: Mapping[str, str | None] | None,
    report: CorpusReport,
    name: str,
    min_shards: int = 1,
) -> datasets.IterableDataset:
    """The same rows, made while they are iterated; in whole subsets only.

    Args:
        min_shards: where there are fewer files than this, parquet files are read by row group, each a shard.

    Raises:
        UserError: a range or speakers: which rows are meant is known only after all were seen.
    """
    import datasets

    streams = []
    for part in parts:
        if not part.everything:
            raise UserError(
                f"split of {source}",
                "a range or speakers can't be taken from a stream",
                "name whole splits, or streaming=False",
            )
        opened = _open(source, config, part.name, streaming=True)
        if opened.num_shards < min_shards:
            opened = opened.reshard()
        found, stream = _audio_of(opened, columns, source, texts=True)
        make = _RowMaker(found, part.name or "row", report, name, _may_name_files(source, opened))
        streams.append(
            stream.map(
                make,
                with_indices=True,
                batched=True,
                batch_size=_CLIPS,
                features=features(),
                remove_columns=stream.column_names,
            )
        )
    return datasets.concatenate_datasets(streams) if len(streams) > 1 else streams[0]


class _RowMaker:
    """Rows of a corpus out of rows of a stream, those left out that can't be used."""

    def __init__(self, found: Mapping[str, str], prefix: str, report: CorpusReport, name: str, may_name: bool) -> None:
        self.found, self.prefix, self.report, self.name, self.may_name = found, prefix, report, name, may_name

    def __call__(self, batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {column: [] for column in COLUMNS}
        for place, number in enumerate(numbers):
            given = {ours: batch[theirs][place] for ours, theirs in self.found.items()}
            audio = given["audio"]
            id = str(given.get("id") or (audio or {}).get("path") or f"{self.prefix}-{number:08d}")
            try:
                checked = _checked(audio, self.may_name)
                if isinstance(checked, AudioError):
                    raise checked
                header = probe(checked)
                if header.silent:
                    raise AudioError("silent", "nothing is louder than -80 dB")
            except AudioError as error:
                self.report.drop(self.name, id, error.reason, str(error))
                logger.warning("%s is left out: %s (%s)", id, error.reason, error)
                continue
            texts = [
                str(given.get(column, "") if given.get(column) is not None else "") for column in ("text", "speaker")
            ]
            for column, value in zip(COLUMNS, (id, audio, *texts, header.seconds, None), strict=True):
                rows[column].append(value)
        return rows


# ---- columns ----


def _audio_of(
    dataset: Any, columns: Mapping[str, str | None] | None, source: str, texts: bool = False
) -> tuple[dict[str, str], Any]:
    """Our names for the columns to theirs; and the encoded audio under the name "audio" (and the texts beside it).

    Raises:
        UserError: no such column, or none that could be it.
    """
    import datasets

    for segment in ("start", "end", "duration"):
        if segment in (columns or {}):
            raise UserError(f"columns {segment}", "segments are read from manifests only", "leave it out")
    if dataset.features is None:
        dataset = dataset._resolve_features()
    typed = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Audio)]
    given: dict[str, str | None] = dict(columns or {})
    if "audio" not in given and len(typed) == 1:
        given["audio"] = typed[0]
    found = {
        ours: theirs
        for ours, theirs in find_columns(dataset.features, given, source).items()
        if ours in ("audio", "text", "speaker", "id")
    }
    dataset = dataset.select_columns(list(dict.fromkeys(found.values())) if texts else [found["audio"]])
    dataset = dataset.cast_column(found["audio"], datasets.Audio(decode=False))
    return found, dataset if texts or found["audio"] == "audio" else dataset.rename_column(found["audio"], "audio")


def _texts(dataset: datasets.Dataset, found: Mapping[str, str], prefix: str) -> pa.Table:
    """Columns id, text, speaker as strings."""
    table = dataset.select_columns(list(dict.fromkeys(found.values()))).with_format("arrow")[:]
    columns = {}
    for ours in ("text", "speaker"):
        column = pc.cast(table[found[ours]], pa.string()) if ours in found else pa.array([""] * len(table), pa.string())
        columns[ours] = pc.fill_null(column, "")
    return pa.table({"id": _ids(table, found, prefix), **columns})


def _ids(table: pa.Table, found: Mapping[str, str], prefix: str) -> pa.Array | pa.ChunkedArray:
    """The column of ids, else the paths where they are distinct, else numbers."""
    if "id" in found:
        ids = table[found["id"]]
        ids = pc.struct_field(ids, "path") if pa.types.is_struct(ids.type) else pc.cast(ids, pa.string())
        ids = pc.fill_null(ids, "")
        distinct = len(pc.unique(ids))
        if distinct >= _DISTINCT_IDS * len(ids):
            return ids
        logger.info("column %r has %d values in %d rows: it is taken for no id", found["id"], distinct, len(ids))
    audio = table[found["audio"]]
    paths = pc.struct_field(audio, "path") if pa.types.is_struct(audio.type) else audio
    if not paths.null_count and len(pc.unique(paths)) == len(paths):
        return paths
    return pa.array([f"{prefix}-{row:08d}" for row in range(len(table))], pa.string())


# ---- rows without bytes ----


def _may_name_files(source: str, dataset: Any) -> bool:
    """Whether a row may name an audio file in place of holding it: in a folder that the user named, where it says so
    openly, from the root on; or files that ``datasets`` itself has laid down. Never what rows from the Hub say.
    """
    return os.path.isdir(source) or dataset.info.builder_name == "audiofolder"


def _checked(audio: Mapping[str, Any] | None, may_name: bool) -> Mapping[str, Any] | AudioError:
    """A row's audio, or why it isn't read: it would be from a file that the row must not name."""
    audio = audio or {"path": None}
    path = audio.get("path")
    if audio.get("bytes") is not None or not path or (may_name and os.path.isabs(path)):
        return audio
    return AudioError("outside the corpus folder", f"a path, {path}, in place of audio: no file is read for that")


class _Checked(Sequence[Any]):
    """The audio of rows, checked when it is asked for."""

    def __init__(self, rows: Any, may_name: bool) -> None:
        self.rows, self.may_name = rows, may_name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Any) -> Any:
        return [_checked(audio, self.may_name) for audio in self.rows[places]]


# ---- headers ----


def _headers(clips: datasets.Dataset, index: Path, may_name: bool) -> pa.Table:
    """Headers of all clips, in their order; the index holds for one version of the dataset's cache files."""
    known = header_index.load(index)
    if len(known) == len(clips):
        return known
    keys = np.arange(len(clips), dtype=np.uint64)
    new = np.flatnonzero(~np.isin(keys, known["key"].to_numpy()))  # all, or those that couldn't be read
    fresh = header_index.probe_all(_Checked(clips.select(new)["audio"], may_name), keys[new], _CLIPS)
    headers = pa.concat_tables([known, fresh]).sort_by("key")
    header_index.save(headers, index)
    return headers


def _versions(dataset: datasets.Dataset) -> list[tuple[str, int, int]]:
    paths = [file["filename"] for file in dataset.cache_files]
    return [(path, (status := os.stat(path)).st_size, status.st_mtime_ns) for path in paths]


# ---- opening ----


def _open(
    source: str,
    config: str | None,
    split: str | None,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
) -> Any:
    """One split, by ``datasets``.

    Raises:
        UserError: no such dataset, configuration or split, or the Hub can't be reached.
    """
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    kwargs: dict[str, Any] = (
        {"streaming": True} if streaming else {"cache_dir": None if cache_dir is None else str(cache_dir)}
    )
    with _explained(source):
        if os.path.isdir(source):
            files = _local_files(Path(source), config)
            split = _choose_split(source, split, list(files))
            # Only this split's files: load_dataset(source) would unpack them all.
            return datasets.load_dataset("parquet", data_files={split: files[split]}, split=split, **kwargs)
        config = _choose_config(source, config, datasets.get_dataset_config_names(source))
        split = _choose_split(source, split, datasets.get_dataset_split_names(source, config))
        builder = datasets.load_dataset_builder(source, config)
        own = (builder.config.data_files or {}).get(split)
        if isinstance(builder, Parquet) and own:  # the same: load_dataset(source) would download all splits
            kwargs |= {"data_files": {split: list(own)}, "features": builder.info.features}
            return datasets.load_dataset("parquet", split=split, **kwargs)
        return datasets.load_dataset(source, config, split=split, **kwargs)


def split_names(source: str, config: str | None) -> list[str]:
    """The splits of a dataset.

    Raises:
        UserError: no such dataset or configuration, or the Hub can't be reached.
    """
    import datasets

    with _explained(source):
        if os.path.isdir(source):
            return list(_local_files(Path(source), config))
        config = _choose_config(source, config, datasets.get_dataset_config_names(source))
        return list(map(str, datasets.get_dataset_split_names(source, config)))


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """What the ``datasets`` library raises, as a :class:`UserError`."""
    import datasets

    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(
            source,
            "no such folder here and no such dataset on the Hub",
            "check the name; a private one needs `hf auth login`",
        ) from error
    except ConnectionError as error:
        raise UserError(
            source, "no such folder here, and the Hub can't be reached", "check the path, or the connection"
        ) from error
    except (
        datasets.exceptions.DatasetGenerationError,
        datasets.exceptions.DatasetsError,
        pa.ArrowException,
        ValueError,
    ) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(source, f"the datasets library can't read it: {reason}", "mend the files") from error


def _choose_config(source: str, config: str | None, known: list[str]) -> str:
    if config is None and len(known) > 1:
        raise UserError(source, f"it has the configurations {', '.join(known)}", f"say which: config={known[0]}")
    if config is not None and config not in known:
        raise unknown("configuration", config, known, given=source)
    return config or known[0]


def _choose_split(source: str, split: str | None, known: list[str]) -> str:
    if split is None and len(known) > 1:
        raise UserError(
            source, f"it has the splits {', '.join(known)}", f"say which, or several joined by +: split={known[0]}"
        )
    if split is not None and split not in known:
        raise unknown("split", split, known, given=source)
    return split or known[0]


def _local_files(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Parquet files by split: as the README's configurations say, else ``[CONFIG/][data/]SPLIT/*.parquet`` or
    ``SPLIT-NNNNN-of-NNNNN.parquet``.
    """
    if (folder / "README.md").is_file():
        import datasets

        known = datasets.get_dataset_config_names(str(folder))
        files = datasets.load_dataset_builder(str(folder), _choose_config(str(folder), config, known)).config.data_files
        return {str(split): list(paths) for split, paths in files.items()}
    configs = sorted({path.parent.parent.name for path in folder.glob("*/*/*.parquet")} - {"data"})
    if config is not None or configs:
        folder = folder / _choose_config(str(folder), config, configs)
    found: dict[str, list[str]] = {}
    for path in sorted((*folder.glob("*.parquet"), *folder.glob("*/*.parquet"), *folder.glob("data/*/*.parquet"))):
        shard = _SHARD.fullmatch(path.stem)
        own_folder = path.parent != folder and path.parent.name != "data"
        found.setdefault(path.parent.name if own_folder else shard[1] if shard else path.stem, []).append(str(path))
    return found
