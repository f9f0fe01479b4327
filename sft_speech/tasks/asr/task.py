"""What fine-tuning a recognizer of any architecture has in common."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sft_speech.audio import augment
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.metrics.intervals import Comparison
from sft_speech.models import adapt
from sft_speech.models.spec_augment import SpecAugment
from sft_speech.options.config import IN_MEMORY
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.evaluate import evaluate_corpus, with_transcript
from sft_speech.tasks.asr.recognizer import is_spaced
from sft_speech.tasks.asr.results import EvaluationResult
from sft_speech.text import markup
from sft_speech.text.normalize import Normalized, TranscriptNormalizer
from sft_speech.text.unspelt import log_spelling, warn_of_unspelt
from sft_speech.training.rows import Rows, StoredRows
from sft_speech.training.skipped_audio import check_evaluation
from sft_speech.training.task import Task, evaluate_together

SAMPLED_TEXTS = 200  # transcripts of a stream that are looked at before training

if TYPE_CHECKING:
    from datasets import Dataset


class Recognition(Task[FinetuneAsrConfig]):
    """Fine-tuning of a recognizer.

    Attributes:
        checkpoint: the recognizer, which has its front end and can be saved; set by :meth:`load_for`.
    """

    checkpoint: Any

    def __init__(self, config: FinetuneAsrConfig) -> None:
        super().__init__(config)
        self.metric = config.metric_for_best_model or "wer"
        self.max_stretch = 1 / augment.SLOWEST if config.augment else 1.0

    def load(self, rows: Rows) -> None:
        self.load_for(rows.texts())

    @abstractmethod
    def load_for(self, transcripts: Iterable[str]) -> None:
        """Load the checkpoint for transcripts like these, with the regularization of this run."""

    @abstractmethod
    def rules(self) -> dict[str, Any]:
        """Return the rules by which :func:`~sft_speech.corpora.select.select_usable` chooses the training rows."""

    def report_numbers(self, name: str, rows: Rows) -> None:
        """Log which transcripts have numbers that are not spelled out, or in a language that no option names.

        Of a stream, these are among the first transcripts.
        """
        ids: Sequence[Any] = range(1, SAMPLED_TEXTS + 1)
        texts: Sequence[Any] = ()
        if len(rows.table):
            ids, texts = column_of(rows.table, "id"), column_of(rows.table, "text")
        elif isinstance(self.checkpoint.normalizer, TranscriptNormalizer):
            texts = rows.first_texts(SAMPLED_TEXTS)
        warn_of_unspelt(self.checkpoint.normalizer, name, ids, texts)
        if self.config.language is None:
            log_spelling(self.checkpoint.normalizer, name, ids, texts)

    def cleaned(self, transcripts: Iterable[str]) -> Iterable[str]:
        """Return transcripts without signs of transcription, unless the options keep them."""
        if self.config.markup == "keep":
            return transcripts
        return (markup.clean(text, self.config.language).text for text in transcripts)

    def normalize(self) -> Callable[[str], Normalized]:
        """Return the normalizer of training transcripts; it can be sent to workers."""
        if self.config.markup == "keep":
            return self.checkpoint.normalizer
        return markup.WithoutMarks(self.checkpoint.normalizer, self.config.language)

    def to_evaluate(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the rows of a split that have a transcript."""
        normalizer, kept = self.config.normalizer, self.config.markup
        return StoredRows(with_transcript(self.checkpoint, rows.table, name, report, normalizer, kept))

    def begin(self, corpora: Mapping[str, Rows]) -> None:
        """Choose the metric, if the options leave it open."""
        if self.config.metric_for_best_model is None:
            held_out = [corpora[role].texts() for role in self.config.selecting]
            if not all(is_spaced(self.checkpoint, texts) for texts in held_out):
                self.metric = "cer"

    def masks(self) -> SpecAugment | None:
        """Return the object that draws the masks of this run; None if it has none."""
        if not adapt.masks_are_on(self.model.config):
            return None
        return SpecAugment(self.model.config, self.checkpoint.front_end.masked_frames, self.config.seed)

    def data_check(self) -> str:
        if IN_MEMORY in (self.config.source, self.config.model) or self.config.sources:
            return ""
        return f"sft-speech check --config {shlex.quote(str(Path(self.config.output_dir, 'run.yaml')))}"

    def new_weights(self) -> Collection[str]:
        found: list[str] = self.checkpoint.new_weights
        return found

    def can_evaluate_at_start(self) -> bool:
        return not self.checkpoint.head_is_new

    def evaluate(self, rows: Dataset) -> EvaluationResult:
        """Evaluate a share of the rows on every process, and merge the counts.

        Raises:
            UserError: too few of the recordings could be read.
        """
        limit, normalizer = self.config.batch_seconds, self.config.normalizer
        spaced = is_spaced(self.checkpoint, rows["text"])  # the same on all processes

        def evaluate(own: Dataset) -> EvaluationResult:
            return evaluate_corpus(self.checkpoint, own, max_batch_seconds=limit, normalizer=normalizer, spaced=spaced)

        whole = EvaluationResult.merge(evaluate_together(rows, evaluate))
        failed = len(whole.failed)
        check_evaluation(len(whole.utterances) + failed, failed, self.config.max_dropped_share)
        return whole

    def compare(self, evaluation: EvaluationResult, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        return evaluation.compare(before, metric)

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.checkpoint.save(folder, weights)

    def save_processor(self, folder: Path | str) -> None:
        self.checkpoint.save_processor(folder)

    def usage_hint(self, output: Path) -> str:
        return f"{output} transcribes with `sft-speech transcribe {output} AUDIO`"
