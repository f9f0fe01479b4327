"""The rows of a split as a run uses them, stored or streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from accelerate import PartialState

from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.corpora.select import judge, select_usable
from sft_speech.options.config import FinetuneConfig
from sft_speech.training.plan import Draw, Plan
from sft_speech.training.run_plan import plan_run, plan_stream
from sft_speech.training.skipped_audio import WINDOW
from sft_speech.training.stream import Stream, noise

if TYPE_CHECKING:
    from datasets import Dataset


LONGEST = 16  # utterances
Cost = Callable[[np.ndarray], np.ndarray]


class Rows(Protocol):
    """The rows of a split."""

    @property
    def table(self) -> Dataset:
        """The rows by index; empty for a stream, whose rows come from the loader."""

    @property
    def window(self) -> int:
        """Number of utterances over which the share of skipped audio is judged."""

    def texts(self) -> Iterable[str]:
        """Return transcripts to build a vocabulary from."""

    def first_texts(self, count: int) -> Sequence[str]:
        """Return at most this many transcripts, from the beginning."""

    def select(self, name: str, report: CorpusReport, cost: Cost | None = None, **rules: Any) -> Rows:
        """Return the usable rows.

        Args:
            cost: returns the costs (N,) of rows in a batch from their seconds (N,); None: they are their seconds.
            rules: those of :func:`~sft_speech.corpora.select.select_usable`.
        """

    def longest(
        self, config: FinetuneConfig, utterances: Any, seconds: np.ndarray | None
    ) -> tuple[list[Any], np.ndarray]:
        """Return the costliest utterances, not collated, at most :data:`LONGEST`, and the costs of all rows.

        Args:
            utterances: the training data of the task.
            seconds: as for :meth:`plan`.
        """

    def plan(
        self,
        config: FinetuneConfig,
        processes: PartialState,
        report: CorpusReport,
        seconds: np.ndarray | None,
        max_stretch: float,
    ) -> tuple[Plan, int, int]:
        """Plan the run. Return its batches, the batches per optimizer step, and the optimizer steps.

        Args:
            seconds: (N,) cost of each row in a batch; None for that of :meth:`select`.
            max_stretch: the largest factor by which augmentation may lengthen an utterance.
        """


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Rows that can be read by index."""

    table: Dataset
    cost: Cost | None = None

    @property
    def window(self) -> int:
        return len(self.table)

    def texts(self) -> Iterable[str]:
        return self.table["text"]

    def first_texts(self, count: int) -> Sequence[str]:
        return self.table["text"][:count]

    def select(self, name: str, report: CorpusReport, cost: Cost | None = None, **rules: Any) -> StoredRows:
        return StoredRows(select_usable(self.table, name, report, **rules), cost)

    def plan(
        self,
        config: FinetuneConfig,
        processes: PartialState,
        report: CorpusReport,
        seconds: np.ndarray | None,
        max_stretch: float,
    ) -> tuple[Plan, int, int]:
        return plan_run(config, self.table, self.costs(seconds), processes, max_stretch, self.draw(config))

    def draw(self, config: FinetuneConfig) -> Draw | None:
        """Return which utterances an epoch has; None: each once."""
        return None

    def costs(self, seconds: np.ndarray | None) -> np.ndarray:
        if seconds is not None:
            return seconds
        lengths = column_of(self.table, "seconds").to_numpy()
        return self.cost(lengths) if self.cost else lengths

    def longest(
        self, config: FinetuneConfig, utterances: Any, seconds: np.ndarray | None
    ) -> tuple[list[Any], np.ndarray]:
        costs = self.costs(seconds)
        read = (utterances[(0, int(index))] for index in np.argsort(-costs, kind="stable")[:LONGEST])
        return [one for one in read if one is not None], costs


@dataclasses.dataclass(frozen=True)
class StreamedRows:
    """Rows that are read during training."""

    stream: Stream

    @property
    def table(self) -> Sequence[Any]:
        return ()

    @property
    def window(self) -> int:
        return WINDOW

    def texts(self) -> Iterable[str]:
        return self.stream.transcripts()

    def first_texts(self, count: int) -> Sequence[str]:
        return self.stream.first_texts(count)

    def select(self, name: str, report: CorpusReport, cost: Cost | None = None, **rules: Any) -> StreamedRows:
        return StreamedRows(dataclasses.replace(self.stream, judge=partial(judge, **rules), cost=cost))

    def plan(
        self,
        config: FinetuneConfig,
        processes: PartialState,
        report: CorpusReport,
        seconds: np.ndarray | None,
        max_stretch: float,
    ) -> tuple[Plan, int, int]:
        return plan_stream(config, self.stream, processes, report, max_stretch)

    def longest(
        self, config: FinetuneConfig, utterances: Any, seconds: np.ndarray | None
    ) -> tuple[list[Any], np.ndarray]:
        lengths = np.array([config.max_seconds])  # no row has been read; the longest one that may come is made up
        made = utterances.made_of(noise(config.max_seconds, utterances.rate), 0, 0)
        return [made], self.stream.cost(lengths) if self.stream.cost else lengths
