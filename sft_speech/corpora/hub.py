"""Corpora that the ``datasets`` library opens: on the Hub, or local folders of parquet files of the same form.

They are mapped into memory from the cache of ``datasets``, their audio still encoded; streamed ones are not stored.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.from_datasets import Request, nothing, stream_rows, table_rows, without_duplicates
from sft_speech.corpora.headers import index_path
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.splits import Part, unknown
from sft_speech.errors import UserError

if TYPE_CHECKING:
    import datasets

_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")


def load_hub(
    source: str,
    parts: list[Part],
    config: str | None,
    columns: Columns | None,
    report: CorpusReport,
    name: str,
    cache_dir: str | os.PathLike[str] | None,
) -> datasets.Dataset:
    """Return the corpus made of the terms of a split, see :func:`~sft_speech.corpora.load_corpus`."""
    import datasets

    loaded = []
    for part in parts:
        dataset = _open(source, config, part.name, cache_dir)
        may_name = _may_name(source, dataset)
        request = Request(columns, report, name, source, may_name, part.name or "row")
        index = index_path(cache_dir, source, config, part, may_name is not nothing, *_versions(dataset))
        loaded.append(table_rows(dataset, part, request, cache_dir, index))
    corpus = datasets.concatenate_datasets(loaded) if len(loaded) > 1 else loaded[0]
    return without_duplicates(corpus, request)


def stream_hub(
    source: str,
    parts: list[Part],
    config: str | None,
    columns: Columns | None,
    report: CorpusReport,
    name: str,
    min_shards: int = 1,
) -> datasets.IterableDataset:
    """Return the same rows, made during iteration; for whole subsets only.

    Args:
        min_shards: if there are fewer files than this, parquet files are read by row group, each a shard.

    Raises:
        UserError: a range or speakers, since the rows that they select are known only after all have been read.
    """
    import datasets

    streams = []
    for part in parts:
        if not part.everything:
            why = "a range or speakers cannot be taken from a stream"
            raise UserError(f"split of {source}", why, "name whole splits, or streaming=False")
        opened = _open(source, config, part.name, streaming=True)
        if opened.num_shards < min_shards:
            opened = opened.reshard()
        request = Request(columns, report, name, source, _may_name(source, opened), part.name or "row")
        streams.append(stream_rows(opened, request))
    return datasets.concatenate_datasets(streams) if len(streams) > 1 else streams[0]


def _may_name(source: str, dataset: datasets.Dataset | datasets.IterableDataset) -> Callable[[str], bool]:
    """Return a function that tells whether a row may name an audio file instead of holding it: absolute paths may be
    named in a folder given by the user or in files that ``datasets`` has downloaded, none in rows of the Hub.
    """
    return os.path.isabs if os.path.exists(source) or dataset.info.builder_name == "audiofolder" else nothing


def _versions(dataset: datasets.Dataset) -> list[tuple[str, int, int]]:
    paths = [file["filename"] for file in dataset.cache_files]
    return [(path, (status := os.stat(path)).st_size, status.st_mtime_ns) for path in paths]


def _open(
    source: str,
    config: str | None,
    split: str | None,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
) -> Any:
    """Open one split.

    Raises:
        UserError: no such dataset, configuration or split, or the Hub cannot be reached.
    """
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    kwargs: dict[str, Any] = (
        {"streaming": True} if streaming else {"cache_dir": None if cache_dir is None else str(cache_dir)}
    )
    with _explained(source):
        if os.path.exists(source):
            files = local_files(Path(source), config)
            split = _choose_split(source, split, list(files))
            # Only this split's files: load_dataset(source) would unpack them all.
            return datasets.load_dataset("parquet", data_files={split: files[split]}, split=split, **kwargs)
        config = _choose_config(source, config, datasets.get_dataset_config_names(source))
        split = _choose_split(source, split, datasets.get_dataset_split_names(source, config))
        builder = datasets.load_dataset_builder(source, config)
        own = (builder.config.data_files or {}).get(split)
        if isinstance(builder, Parquet) and own:  # likewise, load_dataset(source) would download all splits
            kwargs |= {"data_files": {split: list(own)}, "features": builder.info.features}
            return datasets.load_dataset("parquet", split=split, **kwargs)
        return datasets.load_dataset(source, config, split=split, **kwargs)


def split_names(source: str, config: str | None) -> list[str]:
    """Return the splits of a dataset.

    Raises:
        UserError: no such dataset or configuration, or the Hub cannot be reached.
    """
    import datasets

    with _explained(source):
        if os.path.exists(source):
            return list(local_files(Path(source), config))
        config = _choose_config(source, config, datasets.get_dataset_config_names(source))
        return list(map(str, datasets.get_dataset_split_names(source, config)))


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn errors of the ``datasets`` library into a :class:`UserError`."""
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
            source, "no such folder here, and the Hub cannot be reached", "check the path, or the connection"
        ) from error
    except (
        datasets.exceptions.DatasetGenerationError,
        datasets.exceptions.DatasetsError,
        pa.ArrowException,
        ValueError,
    ) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(source, f"the datasets library cannot read it: {reason}", "fix the files") from error


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


def local_files(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Return parquet files by split: as in the README's configurations, else ``[CONFIG/][data/]SPLIT/*.parquet`` or
    ``SPLIT-NNNNN-of-NNNNN.parquet``; of a single file, that file.
    """
    if folder.is_file():
        return {_split_of(folder): [str(folder)]}
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
        own_folder = path.parent != folder and path.parent.name != "data"
        found.setdefault(path.parent.name if own_folder else _split_of(path), []).append(str(path))
    return found


def _split_of(path: Path) -> str:
    shard = _SHARD.fullmatch(path.stem)
    return shard[1] if shard else path.stem
