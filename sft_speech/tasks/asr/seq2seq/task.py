"""The task of fine-tuning a sequence-to-sequence model for speech recognition."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio import augment
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.select import Reason
from sft_speech.errors import UserError
from sft_speech.models import adapt, lora
from sft_speech.models.front_end import WhisperFrontEnd
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.results import EvaluationResult
from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint, Features, load_checkpoint
from sft_speech.tasks.asr.seq2seq.collator import Seq2SeqCollator
from sft_speech.tasks.asr.seq2seq.loss import Seq2SeqCriterion
from sft_speech.tasks.asr.seq2seq.transcripts import Transcripts
from sft_speech.tasks.asr.seq2seq.utterances import Seq2SeqUtterances
from sft_speech.tasks.asr.task import SAMPLED_TEXTS, Recognition
from sft_speech.training.rows import Rows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Options that only CTC models have.
CTC_ONLY = ("new_vocabulary", "target_lang", "trust_remote_code", "freeze_encoder_steps")


class Seq2SeqRecognition(Recognition):
    """Fine-tuning of a model that writes text token by token."""

    checkpoint: Checkpoint
    own_length_at_start: bool  # how the starting checkpoint was trained

    def __init__(self, config: FinetuneAsrConfig) -> None:
        super().__init__(config)
        config.refuse(CTC_ONLY, "only CTC models have it")

    def load(self, rows: Rows) -> None:
        self.load_for(rows.first_texts(SAMPLED_TEXTS))
        self.check_language()

    def load_for(self, transcripts: Iterable[str]) -> None:
        config = self.config
        self.checkpoint = load_checkpoint(
            config.checkpoint,
            revision=config.revision,
            overrides=config.regularization,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
            language=config.language,
            any_language=config.several_languages,
            lower_case=config.lower_case,
        )
        if self.checkpoint.transcripts.first_timestamp is None:
            config.refuse(["timestamp_share"], f"{config.model} has no timestamps")
        if not isinstance(self.checkpoint.front_end, WhisperFrontEnd):
            config.refuse(["encoder_seconds"], f"{config.model} takes every clip as long as it is")
        self.own_length_at_start = self.checkpoint.own_length
        self.checkpoint.train_on(own_length=config.encoder_seconds == "auto")
        warn_of_capitals(
            [self.checkpoint.normalizer(text).text for text in islice(self.cleaned(transcripts), SAMPLED_TEXTS)]
        )
        preparations = [adapt.given_masks, *lora.preparations(config, self.checkpoint.new_weights)]
        self.model = self.checkpoint.model = adapt.prepare(self.checkpoint.model, preparations)
        self.criterion = Seq2SeqCriterion(config.label_smoothing)

    def check_language(self) -> None:
        """Raise UserError if it is not known which language a model of several is to write."""
        transcripts, column = self.checkpoint.transcripts, self.config.several_languages
        if column and not transcripts.languages:
            given = f"language_column {self.config.language_column}" if self.config.language_column else "language"
            do = f"remove {given.split()[0]}, or take a multilingual checkpoint"
            raise UserError(given, f"{self.config.model} writes one language", do)
        if transcripts.languages and transcripts.language is None and not column:
            do = "set `language: de`, for example, or language_column for a multilingual corpus"
            raise UserError("no language", f"{self.config.model} writes {len(transcripts.languages)} languages", do)

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the usable rows; an evaluation keeps all rows that have a transcript."""
        if name != "train":
            return self.to_evaluate(name, rows, report)
        self.report_numbers(name, rows)
        cost = partial(cost_of, self.checkpoint.features, self.max_stretch)
        return rows.select(name, report, cost, **self.rules())

    def rules(self) -> dict[str, Any]:
        checkpoint = self.checkpoint
        longest = checkpoint.front_end.max_samples
        limit = self.config.max_seconds if longest is None else min(self.config.max_seconds, longest / checkpoint.rate)
        return {
            "min_seconds": self.config.min_seconds,
            "max_seconds": limit / self.max_stretch,
            "normalize": self.normalize(),
            "max_missing_share": self.config.max_missing_share,
            "why_text": partial(why_unusable, checkpoint.transcripts, checkpoint.max_labels),
        }

    def dataset(self, rows: Rows) -> Seq2SeqUtterances:
        config = self.config
        return Seq2SeqUtterances(
            rows.table,
            self.checkpoint.rate,
            self.checkpoint.transcripts,
            config.timestamp_share if self.checkpoint.transcripts.first_timestamp is not None else 0.0,
            augment=augment.standard if config.augment else None,
            seed=config.seed,
            spec_augment=self.masks(),
        )

    def collator(self) -> Seq2SeqCollator:
        return Seq2SeqCollator(self.checkpoint)

    def evaluate_at_start(self, rows: Dataset) -> EvaluationResult:
        """Evaluate the starting checkpoint with the input that it was trained on: a plain Whisper takes all 30 s."""
        return self.evaluate_as(rows, own_length=self.own_length_at_start)

    def evaluate_at_end(self, rows: Dataset) -> EvaluationResult:
        """Evaluate the trained model, a Whisper also as plain transformers uses it, which pads every clip to 30 s."""
        result = self.evaluate(rows)
        if self.checkpoint.own_length:
            result.plain = self.evaluate_as(rows, own_length=False)
        return result

    def evaluate_as(self, rows: Dataset, own_length: bool) -> EvaluationResult:
        """Evaluate with another input: see :class:`~sft_speech.tasks.asr.seq2seq.checkpoint.Checkpoint`."""
        trained, self.checkpoint.own_length = self.checkpoint.own_length, own_length
        try:
            return self.evaluate(rows)
        finally:
            self.checkpoint.own_length = trained


def cost_of(features: Features, max_stretch: float, seconds: np.ndarray) -> np.ndarray:
    """Return the costs (N,) of clips by their seconds (N,): what the encoder computes.

    The plan divides the seconds of a batch by the largest stretch of the augmentation, so that all clips may have it.
    """
    return features.seconds(seconds * max_stretch) / max_stretch


def why_unusable(transcripts: Transcripts, limit: int, text: str, language: str | None) -> Reason | None:
    """Return why a transcript cannot be learned.

    Args:
        limit: most tokens that the decoder takes.
        language: language of the row, "" if it has none; None if the corpus has no column of languages.
    """
    if reason := transcripts.why_unusable(text, language):
        return reason
    times = transcripts.first_timestamp is not None  # a start and an end, instead of one <|notimestamps|>
    # `check --model` may not know the language; all their tokens count as one.
    known = language or transcripts.language or next(iter(transcripts.languages), None)
    # The last token is not an input.
    tokens = len(transcripts.prefix(known)) + times + len(transcripts.encode(text, language)) - 1
    if tokens <= limit:
        return None
    return "more tokens than the decoder takes", f"{tokens}, it takes {limit}: `sft-speech cut` cuts it"


def warn_of_capitals(texts: Sequence[str]) -> None:
    """Warn about transcripts that are all in capitals, which the model would learn to write."""
    if "".join(texts).isupper():
        logger.warning("all transcripts are in capitals, and the model will learn to write so: set `lower_case: true`")
