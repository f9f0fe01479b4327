"""The task of fine-tuning a classifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from sft_speech.audio import augment
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.metrics.intervals import Comparison
from sft_speech.models import adapt, lora
from sft_speech.models.families import family_of
from sft_speech.models.spec_augment import SpecAugment
from sft_speech.tasks.classification.checkpoint import Checkpoint, load_to_finetune
from sft_speech.tasks.classification.collator import ClassificationCollator
from sft_speech.tasks.classification.config import FinetuneClassificationConfig
from sft_speech.tasks.classification.evaluate import ClassificationResult, evaluate_corpus
from sft_speech.tasks.classification.labels import balanced_weights, find_labels, select_labelled
from sft_speech.tasks.classification.loss import ClassificationCriterion
from sft_speech.training.rows import Rows, StoredRows
from sft_speech.training.skipped_audio import check_evaluation
from sft_speech.training.task import Task, evaluate_together
from sft_speech.training.utterances import Utterances

if TYPE_CHECKING:
    from datasets import Dataset


class Classification(Task[FinetuneClassificationConfig]):
    """Fine-tuning of a classifier."""

    checkpoint: Checkpoint

    def __init__(self, config: FinetuneClassificationConfig) -> None:
        super().__init__(config)
        self.metric = config.metric_for_best_model
        self.head_first_steps = config.freeze_encoder_steps
        self.max_stretch = 1 / augment.SLOWEST if config.augment else 1.0

    def load(self, rows: Rows) -> None:
        config, seconds = self.config, column_of(rows.table, "seconds").to_numpy()
        labels = find_labels(rows.table, config)
        longest = float(seconds[seconds <= config.max_seconds].max(initial=0.0))
        self.checkpoint = load_to_finetune(config, labels, longest * self.max_stretch)
        preparations: list[adapt.Preparation] = [adapt.given_masks]
        if config.freeze_encoder:
            preparations.append(freeze_encoder)
        elif config.freeze_feature_encoder and not config.from_scratch:
            preparations.append(adapt.freeze_feature_encoder)
        preparations += lora.preparations(config, self.checkpoint.new_weights)
        self.model = self.checkpoint.model = adapt.prepare(self.checkpoint.model, preparations)
        self.criterion = ClassificationCriterion(labels.multi)

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the rows with labels of the model; an evaluation keeps those of any length."""
        limits = (self.config.min_seconds, self.config.max_seconds) if name == "train" else None
        return StoredRows(select_labelled(rows.table, name, report, self.checkpoint.labels, limits))

    def begin(self, corpora: Mapping[str, Rows]) -> None:
        """Set the weights of the classes."""
        if self.config.class_weights == "balanced":
            weights = balanced_weights(list(corpora["train"].table["label"]), self.checkpoint.labels)
            self.criterion = ClassificationCriterion(self.config.multi_label, torch.from_numpy(weights))

    def dataset(self, rows: Rows) -> Utterances:
        change = augment.standard if self.config.augment else None
        encode, rate = self.checkpoint.labels.encode, self.checkpoint.rate
        return Utterances(rows.table, rate, encode, "label", change, self.config.seed, self.masks())

    def collator(self) -> ClassificationCollator:
        return ClassificationCollator(self.checkpoint)

    def cost(self, rows: Rows) -> np.ndarray | None:
        fixed = self.checkpoint.input_seconds
        return None if fixed is None else np.full(len(rows.table), fixed / self.max_stretch)

    def masks(self) -> SpecAugment | None:
        """Return the object that draws the masks of this run; None if the model or the run has none."""
        if not adapt.masks_are_on(self.model.config):
            return None
        return SpecAugment(self.model.config, self.checkpoint.front_end.masked_frames, self.config.seed)

    def new_weights(self) -> Collection[str]:
        found: list[str] = self.checkpoint.new_weights
        return found

    def can_evaluate_at_start(self) -> bool:
        return not self.checkpoint.head_is_new

    def evaluate(self, rows: Dataset) -> ClassificationResult:
        """Evaluate a split, each process a share of it.

        Raises:
            UserError: too few of the recordings could be read.
        """
        result = ClassificationResult.merge(
            evaluate_together(
                rows,
                lambda own: evaluate_corpus(self.checkpoint, own, max_batch_seconds=self.config.batch_seconds),
            )
        )
        failed = len(result.failed)
        check_evaluation(len(result.utterances) + failed, failed, self.config.max_dropped_share)
        return result

    def compare(self, evaluation: ClassificationResult, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        return evaluation.compare(before, metric)

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.checkpoint.save(folder, weights)

    def save_processor(self, folder: Path | str) -> None:
        self.checkpoint.save_processor(folder)

    def usage_hint(self, output: Path) -> str:
        return f"{output} classifies with `sft-speech classify {output} AUDIO`"


def freeze_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze all but the head: a preparation."""
    model = adapt.freeze_feature_encoder(model)
    family_of(model.config).body_of(model).requires_grad_(False)
    return model
