"""The rows to check: the splits of a source or the corpora of a run; and the rules for dropping rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.units import conv_frames, samples_of
from sft_speech.corpora.load import load_corpus, splits_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of, corpus_of, features
from sft_speech.corpora.select import select_usable
from sft_speech.errors import UserError
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.text.markup import WithoutMarks
from sft_speech.text.normalize import Normalized, TranscriptNormalizer
from sft_speech.tools.check.findings import Case

if TYPE_CHECKING:
    import datasets

    from sft_speech.tasks.asr.recognizer import Recognizer

# Without a model, frames are counted as in wav2vec 2.0 (Baevski et al. 2020): one per 20 ms.
RATE, KERNELS, STRIDES = 16_000, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
TRAINING = re.compile(r"(?i)(?:^|.*[/_-])train")  # names of training splits


@dataclass
class Rows:
    """The rows of all splits, one split after the other.

    Args:
        names: the names of the splits.
        roles: "train" or "evaluation" for each split.
        corpora: the rows of each split {id, audio, text, speaker, seconds, start}.
        report: dropped rows, including those missing from ``corpora`` because they cannot be read.
    """

    names: list[str]
    roles: list[str]
    corpora: list[datasets.Dataset]
    report: CorpusReport

    def __len__(self) -> int:
        return len(self.split)

    def _column(self, name: str) -> list[Any]:
        return [value for corpus in self.corpora for value in column_of(corpus, name).to_pylist()]

    @cached_property
    def split(self) -> np.ndarray:
        """(rows,) the number of each row's split."""
        return np.repeat(np.arange(len(self.corpora)), [len(corpus) for corpus in self.corpora])

    @cached_property
    def training(self) -> np.ndarray:
        """(rows,) whether the row is training data."""
        return np.array([role == "train" for role in self.roles], bool)[self.split]

    @cached_property
    def seconds(self) -> np.ndarray:
        return np.array(self._column("seconds"), np.float64)

    @cached_property
    def ids(self) -> list[str]:
        return self._column("id")

    @cached_property
    def texts(self) -> list[str]:
        return [text or "" for text in self._column("text")]

    @cached_property
    def speakers(self) -> list[str]:
        return [speaker or "" for speaker in self._column("speaker")]

    @cached_property
    def offsets(self) -> np.ndarray:
        return np.cumsum([0, *(len(corpus) for corpus in self.corpora)])

    def name(self, row: int) -> str:
        """Return the name of a row's split."""
        return self.names[self.split[row]]

    def row(self, number: int) -> dict[str, Any]:
        """Read {id, audio, text, speaker, seconds, start} from disk; the audio is still encoded."""
        split = int(self.split[number])
        return self.corpora[split][int(number - self.offsets[split])]

    def cases(self, numbers: Iterable[int], detail: Callable[[int], str] = lambda row: "") -> list[Case]:
        """Return a case for each of the rows, with a detail."""
        return [Case(self.name(row), self.ids[row], detail(row), int(row)) for row in numbers]

    def quote(self, row: int) -> str:
        """Return a row's transcript in quotation marks, cut to the length of a line."""
        return quoted(self.texts[row])


def quoted(text: str, most: int = 60) -> str:
    """Return a text in quotation marks, cut to ``most`` characters."""
    return f"“{text}”" if len(text) <= most else f"“{text[: most - 1]}…”"


def splits_of_source(
    source: str, splits: list[str] | None, config: str | None, columns: dict[str, str | None]
) -> dict[str, tuple[str, str | None]]:
    """Return (source, split) by name, like ``config.corpora``, for the given splits or for all."""
    wanted: list[str | None] = [*splits] if splits else [*splits_of(source, config=config, columns=columns)] or [None]
    return {split or "all": (source, split) for split in wanted}


def roles_of(names: list[str]) -> list[str]:
    """Return the role of each split: "train" if its name says so; if no name does, for the first split."""
    training = [TRAINING.match(name) is not None for name in names]
    if not any(training):
        training[0] = True
    return ["train" if found else "evaluation" for found in training]


def load_rows(config: FinetuneAsrConfig, corpora: dict[str, tuple[str, str | None]], roles: list[str]) -> Rows:
    """Read the headers of all splits. Rows that cannot be read go to the report.

    Raises:
        UserError: the source or split does not exist.
    """
    report, loaded = CorpusReport(), []
    for (name, (source, split)), role in zip(corpora.items(), roles, strict=True):
        load = partial(
            load_corpus,
            source,
            split,
            name=name,
            config=config.source_config,
            columns={one: column for one, column in config.columns.items() if one != "weight" or role == "train"},
            channel=config.channel,
        )
        try:
            loaded.append(load(report=report))
        except UserError:
            if not report.dropped(name):
                raise
            loaded.append(corpus_of(features().arrow_schema.empty_table()))  # all of its rows are in the report
    return Rows(list(corpora), roles, loaded, report)


@dataclass
class Rules:
    """How a run normalizes the transcripts, and which rows it drops.

    Args:
        options: arguments of :func:`~sft_speech.corpora.select.select_usable` for training data.
        description: the rules as text.
        checkpoint: the model whose vocabulary and frame rate are used; None without a model.
    """

    options: dict[str, Any]
    description: str
    checkpoint: Recognizer | None = None

    @property
    def normalize(self) -> Callable[[str], Normalized]:
        """The function that normalizes a transcript for training."""
        return self.options["normalize"]

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""
        return self.checkpoint.rate if self.checkpoint else RATE

    def select(self, rows: Rows) -> None:
        """Add the rows that a run would drop to the report of ``rows``, with reasons.

        Evaluation splits keep every row that has a transcript.
        """
        everything = {
            "min_seconds": 0.0,
            "max_seconds": np.inf,
            "max_missing_share": 1.0,
            "why_unusable": lambda *_: None,
            "why_text": lambda *_: None,
        }
        for name, role, corpus in zip(rows.names, rows.roles, rows.corpora, strict=True):
            if len(corpus):
                select_usable(corpus, name, rows.report, **self.options | ({} if role == "train" else everything))


def rules_without_model(config: FinetuneAsrConfig) -> Rules:
    """Return the rules for a model whose vocabulary is built from the transcripts."""
    normalize = TranscriptNormalizer(None, "lower", config.language)
    options = {
        "min_seconds": config.min_seconds,
        "max_seconds": config.max_seconds,
        "normalize": normalize if config.markup == "keep" else WithoutMarks(normalize, config.language),
        "encode": list,
        "frames_of": lambda seconds: conv_frames(samples_of(seconds, RATE), KERNELS, STRIDES),
        "max_missing_share": config.max_missing_share,
    }
    assumed = "without --model, the vocabulary is that of the transcripts and a frame lasts 20 ms, as in wav2vec 2.0"
    return Rules(options, f"{limits(config)}; {assumed}")


def rules_of_model(config: FinetuneAsrConfig, transcripts: list[str]) -> Rules:
    """Return the rules of the run that ``config`` describes, taken from its task.

    Raises:
        UserError: the checkpoint does not exist.
    """
    from sft_speech.tasks.asr import loading

    task: Any = loading.build(config)
    task.load_for(transcripts)
    return Rules(task.rules(), f"{limits(config)}; vocabulary and frames of {config.model}", task.checkpoint)


def limits(config: FinetuneAsrConfig) -> str:
    """Return the limits on training data as text."""
    return (
        f"training drops rows below {config.min_seconds:g} s, above {config.max_seconds:g} s, or with more labels than "
        "the model can learn"
    )
