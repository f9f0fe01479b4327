"""The task of fine-tuning a CTC model for speech recognition."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from transformers import TrainerCallback

from sft_speech.audio import augment
from sft_speech.audio.units import samples_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.inference.batching import WHOLE_SECONDS
from sft_speech.models import adapt, lora
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint, load_checkpoint
from sft_speech.tasks.asr.ctc.collator import CTCCollator
from sft_speech.tasks.asr.ctc.loss import CtcCriterion
from sft_speech.tasks.asr.task import Recognition
from sft_speech.training import callbacks
from sft_speech.training.loss import Criterion
from sft_speech.training.rows import Rows
from sft_speech.training.start import on_cpu
from sft_speech.training.utterances import Utterances

logger = logging.getLogger(__name__)

# Options that only models which write token by token have.
SEQ2SEQ_ONLY = ("language_column", "encoder_seconds", "label_smoothing", "lower_case", "timestamp_share")


class CtcRecognition(Recognition):
    """Fine-tuning of a CTC model."""

    checkpoint: Checkpoint
    read = staticmethod(load_checkpoint)

    def __init__(self, config: FinetuneAsrConfig) -> None:
        super().__init__(config)
        config.refuse(SEQ2SEQ_ONLY, "only models that write token by token have it")
        if config.several_languages:
            raise UserError("sources: language", "only models that write token by token have it", "leave it out")
        self.head_first_steps = config.freeze_encoder_steps

    def load_for(self, transcripts: Iterable[str]) -> None:
        config = self.config
        self.checkpoint = self.read(
            config.checkpoint,
            transcripts=self.cleaned(transcripts),
            revision=config.revision,
            overrides=config.regularization,
            trust_remote_code=config.trust_remote_code,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
            new_vocabulary=config.new_vocabulary,
            target_lang=config.target_lang,
            language=config.language,
        )
        preparations: list[adapt.Preparation] = [adapt.given_masks]
        if config.freeze_feature_encoder and not config.from_scratch:
            preparations.append(adapt.freeze_feature_encoder)
        preparations += lora.preparations(config, self.checkpoint.new_weights)
        self.checkpoint.model = adapt.prepare(self.checkpoint.model, preparations)
        self.model = self.checkpoint.model
        self.criterion = self.objective()

    def objective(self) -> Criterion:
        """Return the criterion of the loaded model."""
        return CtcCriterion(self.checkpoint.blank)

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the usable rows, transcripts normalized; an evaluation keeps all rows that have a transcript."""
        if name != "train":
            return self.to_evaluate(name, rows, report)
        self.report_numbers(name, rows)
        return rows.select(name, report, **self.rules())

    def rules(self) -> dict[str, Any]:
        checkpoint = self.checkpoint
        return {
            "min_seconds": self.config.min_seconds,
            "max_seconds": self.config.max_seconds,
            "normalize": self.normalize(),
            "encode": checkpoint.encode,
            "frames_of": partial(frames_of, checkpoint.frames, checkpoint.rate),
            "max_missing_share": self.config.max_missing_share,
        }

    def dataset(self, rows: Rows) -> Utterances:
        change = augment.standard if self.config.augment else None
        rate, encode = self.checkpoint.rate, self.checkpoint.encode
        return Utterances(rows.table, rate, encode, augment=change, seed=self.config.seed, spec_augment=self.masks())

    def collator(self) -> CTCCollator:
        if not on_cpu():
            return CTCCollator(self.checkpoint)
        unmeasured = self.config.max_batch_seconds == "auto" and self.config.measured_batch_seconds is None
        return CTCCollator(self.checkpoint, WHOLE_SECONDS, math.inf if unmeasured else self.config.batch_seconds)

    def callbacks(self) -> list[TrainerCallback]:
        return [callbacks.BlankAdvice()]


def frames_of(frames: Callable[[np.ndarray], np.ndarray], rate: int, seconds: np.ndarray) -> np.ndarray:
    """Return the frames of clips from their seconds; unlike a method, it can be sent to workers without the model."""
    return frames(samples_of(seconds, rate))
