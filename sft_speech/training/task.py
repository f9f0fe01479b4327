"""The interface between a run and the task that it fine-tunes a model for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import accelerate
import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, TrainerCallback

from sft_speech.corpora.report import CorpusReport
from sft_speech.metrics.intervals import Comparison
from sft_speech.options.config import FinetuneConfig
from sft_speech.training.loss import Criterion

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.training.rows import Rows

C = TypeVar("C", bound=FinetuneConfig)
E = TypeVar("E")
Batch = dict[str, Any]


class Evaluation(Protocol):
    """The result of an evaluation."""

    def metrics(self) -> dict[str, float]:
        """Return the figures that the trainer logs, without those that are not finite."""

    def table(self) -> str:
        """Return the figures as text; "" if there are none."""

    def save(self, folder: Path, split: str) -> object:
        """Write the figures and the hypotheses of a split into a folder, which is created."""


class Task(ABC, Generic[C]):
    """A task: which rows it can use, its batches and its loss, evaluation and saving.

    :func:`~sft_speech.training.run.fine_tune` calls the methods in the order in which they are defined here.

    Args:
        config: options of the run.

    Attributes:
        metric: name of the figure that picks the best checkpoint.
        model: the module that is trained; set by :meth:`load`.
        criterion: its loss; set by :meth:`load`.
        max_stretch: the largest factor by which augmentation may lengthen an utterance.
        head_first_steps: optimizer steps during which only the head is trained.
    """

    metric: str = "loss"
    model: PreTrainedModel
    criterion: Criterion
    max_stretch: float = 1.0
    head_first_steps: int = 0

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def load(self, rows: Rows) -> None:
        """Load the model.

        Args:
            rows: the rows to train on; a vocabulary or a set of labels may be built from them.
        """

    @abstractmethod
    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the rows of a split that can be used.

        Args:
            name: role of the split in the run: "train", "eval", or the name of a test split.
            report: receives the other rows, with the reasons.
        """

    def begin(self, corpora: Mapping[str, Rows]) -> None:
        """Prepare what needs the usable rows of all splits."""

    @abstractmethod
    def dataset(self, rows: Rows) -> torch.utils.data.Dataset[Any]:
        """Return a dataset of training utterances by (epoch, index); ``made_of`` makes them of streamed rows."""

    @abstractmethod
    def collator(self) -> Callable[[list[Any]], Batch]:
        """Return a function from utterances to a batch; utterances that could not be read are None.

        It is sent to the loader's workers, so it should not hold the model.
        """

    def cost(self, rows: Rows) -> np.ndarray | None:
        """Return the cost (N,) of each utterance in a batch, in seconds; None for its length."""
        return None

    def callbacks(self) -> list[TrainerCallback]:
        """Return the callbacks of this task."""
        return []

    def data_check(self) -> str:
        """Return the command that looks for errors in the data of this run; "" if there is none."""
        return ""

    def new_weights(self) -> Collection[str]:
        """Return the names of weights that the starting checkpoint lacks, such as those of a new head."""
        return ()

    def can_evaluate_at_start(self) -> bool:
        """Return whether the checkpoint can do the task before it is trained: its head is not new."""
        return False

    def evaluate_at_start(self, rows: Dataset) -> Evaluation:
        """Evaluate the starting checkpoint before step 1, as :meth:`evaluate` does.

        Override it if the starting checkpoint must be used in another way than the model in training.
        """
        return self.evaluate(rows)

    @abstractmethod
    def evaluate(self, rows: Dataset) -> Evaluation:
        """Evaluate a split on all processes together; each gets the same result."""

    def compare(self, evaluation: Any, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        """Return the difference between an evaluation and an earlier one, later minus earlier, with its interval.

        Args:
            evaluation: the later one, from :meth:`evaluate`.
            before: the lines of SPLIT.jsonl of the earlier one.
            metric: name of the figure.

        Returns:
            None if there is no interval for this figure, or the utterances are not the same.
        """
        return None

    def evaluate_at_end(self, rows: Dataset) -> Evaluation:
        """Evaluate a split with the trained model, on all processes together."""
        return self.evaluate(rows)

    @abstractmethod
    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write the model and all its files, in a form that plain transformers can load.

        Args:
            weights: the gathered weights of a sharded model.
        """

    @abstractmethod
    def save_processor(self, folder: Path | str) -> None:
        """Write everything but the weights and their configuration."""

    @abstractmethod
    def usage_hint(self, output: Path) -> str:
        """Return a sentence on how to use the directory of the model."""


def evaluate_together(rows: Dataset, evaluate: Callable[[Dataset], E]) -> list[E]:
    """Evaluate a share of the rows on every process. Return the results of all shares, on every process."""
    processes = accelerate.PartialState()
    if len(rows) < processes.num_processes:  # every process evaluates all rows, and the first result counts
        parts: list[E] = gather_object([evaluate(rows)])
        return parts[:1]
    parts = gather_object([evaluate(rows.shard(processes.num_processes, processes.process_index))])
    return parts
