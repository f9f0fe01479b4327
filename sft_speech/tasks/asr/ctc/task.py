"""Recognition as a fine-tuning run sees it: a CTC model, its data and its word error rate."""

from __future__ import annotations

import dataclasses
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from sft_speech.audio import augment
from sft_speech.audio.read import samples_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.select import judge, select_usable
from sft_speech.models import adapt as freezing
from sft_speech.models.spec_augment import SpecAugment, take_given_masks
from sft_speech.options.config import FinetuneAsrConfig
from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint, load_checkpoint
from sft_speech.tasks.asr.ctc.collator import CTCCollator, Utterances
from sft_speech.tasks.asr.ctc.loss import CtcCriterion
from sft_speech.tasks.asr.evaluate import EvaluationResult, evaluate_corpus, with_transcript
from sft_speech.training import callbacks
from sft_speech.training.run import Parts, fine_tune
from sft_speech.training.skipped_audio import check_evaluation
from sft_speech.training.stream import Stream

logger = logging.getLogger(__name__)

OVERRIDES = (
    "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout layerdrop "
    "mask_time_prob mask_time_length mask_feature_prob mask_feature_length"
).split()


def run(config: FinetuneAsrConfig) -> int:
    """Fine-tunes as ``config`` says; see :func:`fine_tune`."""
    return fine_tune(config, Recognition(config))


class Recognition:
    """The job of :func:`~sft_speech.training.run.fine_tune`."""

    checkpoint: Checkpoint

    def __init__(self, config: FinetuneAsrConfig) -> None:
        self.config = config
        self.metric: str = config.metric_for_best_model

    def load(self, rows: Any) -> None:
        """The checkpoint with the regularization of this run, its convolutions frozen."""
        config = self.config
        masks = config.mask_time_prob > 0 or config.mask_feature_prob > 0
        self.checkpoint = load_checkpoint(
            config.model,
            transcripts=rows.transcripts() if isinstance(rows, Stream) else rows["text"],
            revision=config.revision,
            # Some (w2v-bert-2.0) have masking switched off altogether.
            overrides={name: getattr(config, name) for name in OVERRIDES} | {"apply_spec_augment": masks},
            trust_remote_code=config.trust_remote_code,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
            new_vocabulary=config.new_vocabulary,
            target_lang=config.target_lang,
            language=config.language,
        )
        if masks:
            take_given_masks(self.checkpoint.model)
        if config.freeze_feature_encoder and not config.from_scratch:
            freezing.freeze_feature_encoder(self.checkpoint.model)

    def usable(self, name: str, rows: Any, report: CorpusReport) -> Any:
        """The rows of a split that can be used, transcripts normalized; evaluation keeps all that has a transcript."""
        if name != "train":
            return with_transcript(self.checkpoint, rows, name, report)
        if isinstance(rows, Stream):
            return dataclasses.replace(rows, judge=partial(judge, **self.rules()))
        return select_usable(rows, name, report, **self.rules())

    def rules(self) -> dict[str, Any]:
        """By which :func:`~sft_speech.corpora.select.select_usable` chooses what is trained on."""
        checkpoint = self.checkpoint
        return {
            "min_seconds": self.config.min_seconds,
            "max_seconds": self.config.max_seconds,
            "normalize": checkpoint.normalizer,
            "encode": checkpoint.encode,
            "frames_of": partial(frames_of, checkpoint.frames, checkpoint.rate),
            "max_missing_share": self.config.max_missing_share,
        }

    def parts(self, corpora: dict[str, Any]) -> Parts:
        config, checkpoint, held_out = self.config, self.checkpoint, corpora.get("eval")
        rows = corpora["train"]
        if isinstance(rows, Stream):  # whose rows come from the loader
            rows = []
        extra: list[TrainerCallback] = [callbacks.BlankAdvice()]
        if config.freeze_encoder_steps:
            extra.append(freezing.HeadFirst(checkpoint.model, config.freeze_encoder_steps))
        change = augment.standard if config.augment else None
        return Parts(
            model=checkpoint.model,
            criterion=CtcCriterion(checkpoint.blank),
            train=Utterances(rows, checkpoint, change, config.seed, self.masks()),
            collate=CTCCollator(checkpoint),
            evaluate=(lambda: self.evaluate(held_out).metrics()) if held_out is not None else None,
            callbacks=extra,
            layer_decay=config.layerwise_lr_decay,
            head_first_steps=config.freeze_encoder_steps,
            max_stretch=1 / augment.SLOWEST if config.augment else 1.0,
        )

    def masks(self) -> SpecAugment | None:
        """Of this run; None where none are wanted."""
        settings, front_end = self.checkpoint.model.config, self.checkpoint.front_end
        if not settings.apply_spec_augment:
            return None
        return SpecAugment(settings, front_end.encoder_frames, self.config.seed)

    def evaluate(self, rows: Any) -> EvaluationResult:
        """Evaluates a share of ``rows`` on every process; the counts are merged, nothing else travels.

        Raises:
            UserError: too few of the recordings could be read.
        """
        processes = accelerate.PartialState()
        shared = len(rows) >= processes.num_processes  # else every process hears them all, and the first one counts
        own = rows.shard(processes.num_processes, processes.process_index) if shared else rows
        parts = gather_object([evaluate_corpus(self.checkpoint, own, max_batch_seconds=self.config.max_batch_seconds)])
        whole = EvaluationResult.merge(parts if shared else parts[:1])
        failed = len(whole.failed)
        check_evaluation(len(whole.utterances) + failed, failed, self.config.max_dropped_share)
        return whole

    def final_evaluation(self, rows: Any, split: str, folder: Path) -> dict[str, float]:
        result = self.evaluate(rows)
        if accelerate.PartialState().is_main_process:
            result.save(folder, split)
            print(f"{split}\n{result.table()}", file=sys.stderr)
        return result.metrics()

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.checkpoint.save(folder, weights)

    def save_processor(self, folder: Path | str) -> None:
        self.checkpoint.save_processor(folder)

    def usage_hint(self, output: Path) -> str:
        return f"{output} transcribes with `sft-speech transcribe {output} AUDIO`"


def frames_of(frames: Any, rate: int, seconds: Any) -> Any:
    """Seconds to the model's frames; no closure over the model, so that workers may be sent it."""
    return frames(samples_of(seconds, rate))
