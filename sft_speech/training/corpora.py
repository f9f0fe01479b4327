"""The rows of all splits of a run: loaded, and those that can be used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import pyarrow as pa
import pyarrow.compute as pc
from transformers import TrainerCallback

from sft_speech.corpora import load_corpus, rows_of_dataset
from sft_speech.corpora.report import CorpusReport, source_name
from sft_speech.corpora.rows import column_of, with_columns
from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.keep import Place
from sft_speech.options.mixing import Part, parts_of
from sft_speech.training.draw import subset
from sft_speech.training.mix import MixedRows
from sft_speech.training.mixed_stream import mixed_stream
from sft_speech.training.rows import Rows, StoredRows, StreamedRows
from sft_speech.training.stream import Stream
from sft_speech.training.task import Task

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Given:
    """What a run gets from Python, besides its options.

    Args:
        data: rows by their role ("train", "eval", names of test splits), in place of ``config.source``; those of
            ``sources`` as "train/NAME".
        callbacks: callbacks of the trainer.
    """

    data: Mapping[str, datasets.Dataset | datasets.IterableDataset] = dataclasses.field(default_factory=dict)
    callbacks: Sequence[TrainerCallback] = ()


def load_splits(config: FinetuneConfig, report: CorpusReport, given: Given) -> dict[str, Rows]:
    """Return the rows of every split by its role in the run."""
    corpora: dict[str, Rows] = {}
    for role in config.corpora:
        streamed = role in config.streamed
        if role == "train" and config.sources:
            corpora[role] = load_sources(config, report, given)
        elif streamed:
            corpora[role] = StreamedRows(open_stream(config, config.place(role), role, given.data.get(role), report))
        else:
            corpora[role] = StoredRows(load_rows(config.place(role), role, given.data.get(role), report))
    return corpora


def load_sources(config: FinetuneConfig, report: CorpusReport, given: Given) -> Rows:
    """Return the rows to train on, of the option ``sources``."""
    parts = parts_of(config)
    data = [given.data.get(f"train/{part.name}") for part in parts]
    if config.streamed:
        streams = [
            open_stream(config, part.place, part.name if len(parts) > 1 else "train", rows, report)
            for part, rows in zip(parts, data, strict=True)
        ]
        return StreamedRows(streams[0] if len(parts) == 1 else mixed_stream(parts, streams))
    tables = []
    for part, rows in zip(parts, data, strict=True):
        name = part.name if len(parts) > 1 else "train"
        tables.append(limited(config, part, load_rows(part.place, name, rows, report)))
    return StoredRows(tables[0]) if len(parts) == 1 else MixedRows.apart(parts, tables)


def limited(config: FinetuneConfig, part: Part, rows: datasets.Dataset) -> datasets.Dataset:
    """Return the random subset that ``max_hours`` asks for."""
    if part.max_hours is None:
        return rows
    seconds = column_of(rows, "seconds").to_numpy()
    counted = (seconds >= config.min_seconds) & (seconds <= config.max_seconds)
    chosen = subset(part.name, seconds, counted, part.max_hours, config.seed)
    if len(chosen) == len(rows):
        logger.info("%s: max_hours %g is more than its %.2f h", part.name, part.max_hours, seconds.sum() / 3600)
        return rows
    logger.info("%s: a random subset of %d of its %d utterances, max_hours", part.name, len(chosen), len(rows))
    return rows.select(chosen)


def load_rows(place: Place, name: str, given: Any, report: CorpusReport) -> datasets.Dataset:
    """Return the rows of a place, or those given from Python in the form of such rows.

    Raises:
        UserError: they are a stream.
    """
    import datasets

    if isinstance(given, datasets.IterableDataset):
        why = "it is a stream, and only what is trained on can be one"
        raise UserError(f"dataset {name}", why, "store its rows: datasets.Dataset.from_list(list(stream.take(1000)))")
    if given is not None:
        rows = rows_of_dataset(given, columns=place.columns, channel=place.channel, name=name, report=report)
    else:
        rows = loader(place, name)(report=report)
    if place.language is None:
        return rows
    return with_columns(rows, pa.table({"language": pa.array([place.language] * len(rows), pa.string())}))


def loader(place: Place, name: str) -> Callable[..., Any]:
    """Return :func:`load_corpus` with the arguments of a place."""
    own = {"config": place.config, "columns": place.columns, "channel": place.channel}
    return partial(load_corpus, place.source, place.split, name=name, **own)


def open_stream(config: FinetuneConfig, place: Place, name: str, given: Any, report: CorpusReport) -> Stream:
    """Return the stream of a place, or of rows given from Python."""
    if given is not None:
        dropped = CorpusReport()
        rows = rows_of_dataset(given, columns=place.columns, channel=place.channel, name=name, report=dropped)
        return Stream(rows, dropped, language=place.language)
    readers = accelerate.PartialState().num_processes * max(1, config.dataloader_num_workers)
    return Stream.opened(loader(place, name), name, readers, report, place.language)


def usable_rows(
    config: FinetuneConfig, task: Task[Any], corpora: dict[str, Rows], report: CorpusReport
) -> dict[str, Rows]:
    """Return the usable rows; the others go to the report.

    Raises:
        UserError: too few rows can be used.
    """
    found: dict[str, Rows] = {}
    for role, rows in corpora.items():
        if isinstance(rows, MixedRows):
            found[role] = rows.usable(partial(task.usable, role), report)
        else:
            found[role] = task.usable(role, rows, report)
    if accelerate.PartialState().is_main_process:
        report.save(Path(config.output_dir) / "corpus_report.json")
    report.check(config.max_dropped_share)
    report.warn_of_notes()
    warn_of_overlap(config, found)
    return found


def warn_of_overlap(config: FinetuneConfig, corpora: dict[str, Rows]) -> None:
    """Warn about utterances that are both trained and evaluated on; not possible for a stream."""
    if "train" in config.streamed:
        return
    trained = corpora["train"]
    parts = parts_of(config)
    sources = {source_name(part.place.source) for part in parts} or {source_name(config.source)}
    for role, rows in corpora.items():
        source = source_name(config.corpora[role][0])
        if role == "train" or source not in sources:
            continue
        ids = column_of(rows.table, "id")
        if isinstance(trained, MixedRows):
            shared = trained.shared(lambda one, source=source: source_name(one) == source, ids)
        else:
            shared = pc.sum(pc.is_in(column_of(trained.table, "id"), ids.combine_chunks())).as_py()
        if shared:
            logger.warning("%s: %d of its %d utterances are trained on as well", role, shared, len(rows.table))
