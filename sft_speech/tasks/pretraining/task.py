"""The task of pre-training on speech without transcripts."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.corpora.select import length_reason
from sft_speech.metrics.intervals import Comparison
from sft_speech.models import adapt, lora
from sft_speech.models.base_front_end import receptive_field
from sft_speech.models.families import family_of
from sft_speech.tasks.pretraining.checkpoint import Checkpoint, load_to_pretrain
from sft_speech.tasks.pretraining.config import PretrainConfig
from sft_speech.tasks.pretraining.evaluate import PretrainingResult, evaluate_corpus
from sft_speech.tasks.pretraining.loss import PretrainingCriterion
from sft_speech.tasks.pretraining.pieces import MOST, PieceRows, piece_seconds
from sft_speech.tasks.pretraining.progress import Collapse, GumbelTemperature
from sft_speech.tasks.pretraining.targets import Pieces, PretrainingCollator
from sft_speech.training.rows import Rows
from sft_speech.training.skipped_audio import check_evaluation
from sft_speech.training.task import Task, evaluate_together

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

PUBLISHED_PENALTY = 10.0  # of wav2vec 2.0 base, in fairseq


class PreTraining(Task[PretrainConfig]):
    """Continued self-supervised pre-training, as in wav2vec 2.0."""

    checkpoint: Checkpoint
    criterion: PretrainingCriterion

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config)
        self.metric = config.metric_for_best_model

    def load(self, rows: Rows) -> None:
        config = self.config
        self.checkpoint = load_to_pretrain(config)
        preparations = lora.preparations(config, self.checkpoint.new_weights)
        self.model = self.checkpoint.model = adapt.prepare(self.checkpoint.model, preparations)
        self.targets = self.checkpoint.targets(config.mask_time_prob, config.mask_time_length, config.num_negatives)
        temperature = self.model.config.contrastive_logits_temperature
        self.criterion = PretrainingCriterion(temperature, config.diversity_loss_weight, self.feature_penalty())

    def feature_penalty(self) -> float:
        """Return the weight of the penalty: that of the options, or else the published one.

        A checkpoint without a quantizer was trained without a penalty. Its features may be so large that the published
        weight would make it far larger than the other losses.
        """
        if self.config.feature_penalty is not None:
            return self.config.feature_penalty
        return 0.0 if self.checkpoint.head_is_new and not self.config.from_scratch else PUBLISHED_PENALTY

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the rows that are long enough; training cuts the long ones into pieces, except in a mix."""
        config, table = self.config, rows.table
        seconds = column_of(table, "seconds").to_numpy()
        most = config.max_seconds * MOST if name == "train" else np.inf
        remedy = f", {MOST} pieces: cut the file"
        if name == "train" and config.sources:
            most, remedy = config.max_seconds, ": the recordings of a mix are not cut"
        least = max(config.min_seconds if name == "train" else 0.0, self.least_seconds())
        reasons = {index: length_reason(float(seconds[index]), least, most, remedy) for index in
                   np.flatnonzero((seconds < least) | (seconds > most)).tolist()}  # fmt: skip
        ids = column_of(table, "id")
        for index, reason in reasons.items():
            if reason is not None:
                report.drop(name, ids[index].as_py(), *reason)
        kept = np.setdiff1d(np.arange(len(table)), list(reasons))
        report.keep(name, len(kept), float(seconds[kept].sum()))
        chosen = table.select(kept) if reasons else table
        return PieceRows(chosen, partial(piece_seconds, max_seconds=config.max_seconds), config.max_seconds)

    def least_seconds(self) -> float:
        """Return the length of the shortest recording that a mask fits into."""
        convolutions = family_of(self.model.config).convolutions(self.model.config)
        return receptive_field(*convolutions, self.config.mask_time_length) / self.checkpoint.rate

    def dataset(self, rows: Rows) -> Pieces:
        config = self.config
        return Pieces(rows.table, self.checkpoint.rate, self.targets, config.max_seconds, config.seed)

    def collator(self) -> PretrainingCollator:
        front_end = self.checkpoint.front_end
        return PretrainingCollator(front_end.features, self.targets.frames, front_end.rate, self.targets)

    def callbacks(self) -> list[TrainerCallback]:
        config = self.config
        start = config.gumbel_start or max(config.gumbel_end, 2.0 if self.checkpoint.head_is_new else 0.0)
        logger.info("temperature of the quantizer: %g to %g", start, config.gumbel_end)
        return [
            GumbelTemperature(self.criterion, start, config.gumbel_end, config.gumbel_share),
            Collapse(self.checkpoint.model.quantizer.num_groups),
        ]

    def new_weights(self) -> Collection[str]:
        return self.checkpoint.new_weights

    def can_evaluate_at_start(self) -> bool:
        return not self.checkpoint.head_is_new

    def evaluate(self, rows: Dataset) -> PretrainingResult:
        """Evaluate a split, each process a share of it.

        Raises:
            UserError: too few of the recordings could be read.
        """
        result = PretrainingResult.merge(
            evaluate_together(
                rows,
                lambda own: evaluate_corpus(
                    self.checkpoint,
                    own,
                    self.targets,
                    max_seconds=self.config.max_seconds,
                    max_batch_seconds=self.config.batch_seconds,
                    diversity_weight=self.config.diversity_loss_weight,
                ),
            )
        )
        failed = len(result.failed)
        check_evaluation(len(result.utterances) + failed, failed, self.config.max_dropped_share)
        return result

    def compare(self, evaluation: PretrainingResult, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        return evaluation.compare(before, metric)

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.checkpoint.save(folder, weights)

    def save_processor(self, folder: Path | str) -> None:
        self.checkpoint.save_processor(folder)

    def usage_hint(self, output: Path) -> str:
        return f"{output} is fine-tuned with `sft-speech finetune-asr --model {output} --new_vocabulary true`"
