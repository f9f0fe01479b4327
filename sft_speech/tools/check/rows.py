"""The rows to be checked: splits of a source, or the corpora of a run, and what its rules leave of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.read import conv_frames, samples_of
from sft_speech.corpora.load import load_corpus, splits_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of, corpus_of, features
from sft_speech.corpora.select import select_usable
from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneAsrConfig
from sft_speech.text.normalize import Normalized, TranscriptNormalizer

if TYPE_CHECKING:
    import datasets

    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint

# Where no model says how many frames it makes of a clip: the convolutions of wav2vec 2.0 (Baevski et al. 2020), 20 ms.
RATE, KERNELS, STRIDES = 16_000, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
TRAINING = re.compile(r"(?i)(?:^|.*[/_-])train")  # the name of a split to train on


@dataclass
class Rows:
    """All rows of all splits, one after the other.

    Args:
        names: of the splits; ``roles``: "train" or "evaluation", of each.
        corpora: their rows {id, audio, text, speaker, seconds, start}.
        report: of the rows that can't be used, also of those that aren't here since they can't be read.
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
        """(rows,) whether the row is of a split to train on."""
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
        """Of the row's split."""
        return self.names[self.split[row]]

    def row(self, number: int) -> dict[str, Any]:
        """{id, audio, text, speaker, seconds, start}; audio as it was encoded, read from the disk now."""
        split = int(self.split[number])
        return self.corpora[split][int(number - self.offsets[split])]


def splits_of_source(
    source: str, splits: list[str] | None, config: str | None, columns: dict[str, str | None]
) -> dict[str, tuple[str, str | None]]:
    """Source and split by name, as ``config.corpora`` has it: those asked for, else all that there are."""
    wanted: list[str | None] = [*splits] if splits else [*splits_of(source, config=config, columns=columns)] or [None]
    return {split or "all": (source, split) for split in wanted}


def roles_of(names: list[str]) -> list[str]:
    """By their names: "train" are those called so, or the first of them."""
    training = [TRAINING.match(name) is not None for name in names]
    if not any(training):
        training[0] = True
    return ["train" if found else "evaluation" for found in training]


def load_rows(config: FinetuneAsrConfig, corpora: dict[str, tuple[str, str | None]], roles: list[str]) -> Rows:
    """Reads the headers of all splits.

    Raises:
        UserError: no such source or split. Rows that can't be read are no error, but in the report.
    """
    report, loaded = CorpusReport(), []
    for name, (source, split) in corpora.items():
        load = partial(load_corpus, source, split, name=name, config=config.source_config, columns=config.columns)
        try:
            loaded.append(load(report=report))
        except UserError:
            if not report.dropped(name):
                raise
            loaded.append(corpus_of(features().arrow_schema.empty_table()))  # all of them are in the report
    return Rows(list(corpora), roles, loaded, report)


@dataclass
class Rules:
    """How a run would write the transcripts, and which rows it would drop.

    Args:
        of_training: what :func:`~sft_speech.corpora.select.select_usable` is to go by.
        said: what the rules are, in words.
        checkpoint: whose vocabulary and frames they are; None without a model.
    """

    of_training: dict[str, Any]
    said: str
    checkpoint: Checkpoint | None = None

    @property
    def normalize(self) -> Callable[[str], Normalized]:
        """A transcript as it would be learned."""
        return self.of_training["normalize"]

    @property
    def rate(self) -> int:
        """Samples per second that the model takes."""
        return self.checkpoint.rate if self.checkpoint else RATE

    def select(self, rows: Rows) -> None:
        """Completes the report of the rows: what would be dropped of each split, and why.

        A split to evaluate on keeps whatever has a transcript.
        """
        for name, role, corpus in zip(rows.names, rows.roles, rows.corpora, strict=True):
            rules = self.of_training
            if role != "train":
                everything = {"min_seconds": 0.0, "max_seconds": np.inf, "max_missing_share": 1.0}
                rules = rules | everything | {"why_unusable": lambda labels, frames: None}
            if len(corpus):
                select_usable(corpus, name, rows.report, **rules)


def rules_without_model(config: FinetuneAsrConfig) -> Rules:
    """Those of a model whose vocabulary would be built from the transcripts."""
    rules = {
        "min_seconds": config.min_seconds,
        "max_seconds": config.max_seconds,
        "normalize": TranscriptNormalizer(None, "lower", config.language or "en"),
        "encode": list,
        "frames_of": lambda seconds: conv_frames(samples_of(seconds, RATE), KERNELS, STRIDES),
        "max_missing_share": config.max_missing_share,
    }
    said = "without --model its characters are those of the transcripts, its frames those of wav2vec 2.0 (20 ms)"
    return Rules(rules, f"{limits(config)}; {said}")


def rules_of_model(config: FinetuneAsrConfig, transcripts: list[str]) -> Rules:
    """Those of the run that ``config`` describes, taken from its task.

    Raises:
        UserError: no such checkpoint.
    """
    from sft_speech.tasks.asr.ctc.task import CtcRecognition

    task = CtcRecognition(config)
    task.load_for(transcripts)
    return Rules(task.rules(), f"{limits(config)}; vocabulary and frames of {config.model}", task.checkpoint)


def limits(config: FinetuneAsrConfig) -> str:
    return (
        f"dropped from training below {config.min_seconds:g} s, above {config.max_seconds:g} s, or with more labels "
        "than frames"
    )
