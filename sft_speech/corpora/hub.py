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

from sft_speech.corpora.channels import Choice
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.from_datasets import Request, nothing, stream_rows, table_rows, without_duplicates
from sft_speech.corpora.headers import index_path
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.splits import Part, unknown, which_split
from sft_speech.errors import UserError

if TYPE_CHECKING:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

_CONVERTED = "refs/convert/parquet"  # the branch of the Hub's own copy of a dataset
_SCRIPT = re.compile(r"scripts are no longer supported, but found (\S+)")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")


def load_hub(
    source: str,
    parts: list[Part],
    config: str | None,
    columns: Columns | None,
    report: CorpusReport,
    name: str,
    cache_dir: str | os.PathLike[str] | None,
    channel: Choice | None = None,
) -> datasets.Dataset:
    """Return the corpus made of the terms of a split, see :func:`~sft_speech.corpora.load_corpus`."""
    import datasets

    loaded = []
    for part in parts:
        dataset = _open(source, config, part.name, cache_dir)
        may_name = _may_name(source, dataset)
        request = Request(columns, report, name, source, may_name, part.name or "row", channel=channel)
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
    channel: Choice | None = None,
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
        may_name = _may_name(source, opened)
        request = Request(columns, report, name, source, may_name, part.name or "row", channel=channel)
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
    import httpx2
    from datasets.data_files import EmptyDatasetError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(source, *_not_accessible(source, str(error))) from error
    except (EmptyDatasetError, datasets.exceptions.DataFilesNotFoundError) as error:
        why = "it has no data files that can be read: audio, parquet, csv, json, or archives of these"
        raise UserError(source, why, f"see what it holds, and how to get its data: {_page(source)}") from error
    except HfHubHTTPError as error:
        raise _refused(source, error) from error
    except (ConnectionError, httpx2.TransportError) as error:
        offline = datasets.config.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set, and it is not in the cache" if offline else "the Hub cannot be reached"
        do = "check the path, or unset HF_HUB_OFFLINE" if offline else "check the path, or the connection"
        raise UserError(source, f"no such folder here, and {why}", do) from error
    except (
        datasets.exceptions.DatasetGenerationError,
        datasets.exceptions.DatasetsError,
        pa.ArrowException,
        ValueError,
    ) as error:
        raise _unreadable(source, error) from error
    except FileNotFoundError as error:  # no file could be fetched, and the library doesn't say why
        raise _refused(source, _asked_again(source)) from error
    except OSError as error:
        if error.errno is not None:  # a fault of the disk, not of a file that Arrow reads
            raise
        raise _unreadable(source, error) from error
    except RuntimeError as error:
        script = _SCRIPT.search(str(error))
        if script is None:
            raise
        why = f"its loading script {script[1]} would have to be run, which the datasets library no longer does"
        raise UserError(source, why, _instead_of_script(source)) from error


def _unreadable(source: str, error: Exception) -> UserError:
    reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    return UserError(source, f"the datasets library cannot read it: {reason}", "fix the files")


def _refused(source: str, error: HfHubHTTPError | None) -> UserError:
    if error is None:
        return UserError(source, "a file of it could not be fetched from the Hub", "try again")
    status = error.response.status_code
    reason = error.server_message or error.response.reason_phrase
    do = "log in again: `hf auth login`" if status == 401 else f"see {_page(source)}, or try again later"
    return UserError(source, f"the Hub does not give it: {reason} ({status})", do)


def _asked_again(source: str) -> HfHubHTTPError | None:
    """Return the Hub's answer to a question about a dataset, if that is an error."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(source)
    except HfHubHTTPError as error:
        return error
    return None


def _page(source: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{source}"


def _not_accessible(source: str, message: str) -> tuple[str, str]:
    """Return why a dataset cannot be read, and what to do: the Hub doesn't tell private ones from missing ones."""
    from huggingface_hub import get_token

    if "gated" in message:
        if get_token() is None:
            return (
                "it is gated: its owner wants to know who uses it",
                f"accept its terms on {_page(source)}, then `hf auth login`",
            )
        return "it is gated, and the account of your token has no access to it", f"ask for it on {_page(source)}"
    if get_token() is None:
        do = "check the name; the Hub shows a private one after `hf auth login`"
        return "no such folder here, and no such public dataset on the Hub: misspelled, removed, renamed or private", do
    do = "check the name; if it is private, `hf auth whoami` says whose token this is"
    return "no such folder here, and no dataset on the Hub that your token may read: misspelled, removed or private", do


def _instead_of_script(source: str) -> str:
    """Return how to get the data of a dataset with a loading script; the Hub has converted many of them to parquet."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if os.path.isdir(source):
        return "give a folder of its audio with a table (audio, text), or take it from the Hub"
    try:
        converted = any(ref.ref == _CONVERTED for ref in HfApi().list_repo_refs(source, repo_type="dataset").converts)
    except (HfHubHTTPError, httpx2.HTTPError, OSError):
        converted = False
    folder = source.rpartition("/")[2]
    command = f"hf download {source} --repo-type dataset --revision {_CONVERTED} --local-dir {folder}"
    if converted:
        return f"take the Hub's copy in parquet: `{command}`, and give {folder} as the source"
    return f"get its audio as {_page(source)} says, and give a folder of it with a table (audio, text)"


def _choose_config(source: str, config: str | None, known: list[str]) -> str:
    if config is None and len(known) > 1:
        raise UserError(source, f"it has the configurations {', '.join(known)}", f"say which: config={known[0]}")
    if config is not None and config not in known:
        raise unknown("configuration", config, known, given=source)
    return config or known[0]


def _choose_split(source: str, split: str | None, known: list[str]) -> str:
    if split is None and len(known) > 1:
        raise UserError(source, f"it has the splits {', '.join(known)}", which_split(known))
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
