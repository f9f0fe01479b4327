"""The part of fine-tuning that synthesis and voice conversion share."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import accelerate
import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from sft_speech.corpora.report import file_stem
from sft_speech.inference.batching import sorted_batches
from sft_speech.metrics.intervals import Comparison, compare_rows, mean
from sft_speech.models import lora
from sft_speech.models.adapt import exact_padding, prepare
from sft_speech.tasks.speech.checkpoint import Model, SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.config import FinetuneSpeechConfig
from sft_speech.tasks.speech.data import Utterances, voices_of
from sft_speech.tasks.speech.generator import SpeechGenerator
from sft_speech.tasks.speech.loss import PARTS, SpectrogramCriterion, means
from sft_speech.tasks.speech.samples import MakeSpeech, SpeechSamples
from sft_speech.tasks.speech.speakers import MelStatistics, SpeakerEncoder, Speakers, XVectors
from sft_speech.training.rows import Rows, StoredRows
from sft_speech.training.skipped_audio import check_evaluation
from sft_speech.training.start import main_first, tensorboard_folder, trackers
from sft_speech.training.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=FinetuneSpeechConfig)
G = TypeVar("G", bound=SpeechGenerator)


class SpeechTask(Task[C]):
    """Fine-tuning of a SpeechT5 that generates speech.

    Attributes:
        kind: class of the model.
        from_audio: whether its input is a recording rather than a text.
        samples: writes samples after each evaluation, in the main process.
    """

    kind: type[Model]
    from_audio: bool = False
    checkpoint: SpeechCheckpoint
    criterion: SpectrogramCriterion
    samples: SpeechSamples | None = None

    def load(self, rows: Rows) -> None:
        self.checkpoint = self.load_checkpoint(rows)
        preparations = [exact_padding, *lora.preparations(self.config, self.checkpoint.new_weights)]
        self.checkpoint.model = prepare(self.checkpoint.model, preparations)
        self.model = self.checkpoint.model
        self.criterion = SpectrogramCriterion(self.model)

    def load_checkpoint(self, rows: Rows, language: str | None = None) -> SpeechCheckpoint:
        """Return the checkpoint to start from; ``language`` is the language of its texts."""
        config = self.config
        return load_speech_checkpoint(
            config.checkpoint,
            kind=self.kind,
            revision=config.revision,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
            language=language,
        )

    @abstractmethod
    def dataset(self, rows: Rows) -> Utterances: ...

    @abstractmethod
    def sampler(self, shown: Utterances) -> tuple[SpeechGenerator, MakeSpeech]:
        """Return a generator, and a function that makes the speech of a row of ``shown`` with it."""

    def generator(self, kind: type[G]) -> G:
        """Return a generator of the model in training, for samples."""
        return kind(self.checkpoint, self.config.vocoder, device="cpu", allow_pickle=self.config.allow_pickle)

    def collator(self) -> SpeechCollator:
        return SpeechCollator(self.checkpoint.config, self.from_audio)

    def begin(self, corpora: Mapping[str, Rows]) -> None:
        """Compute the embeddings of all speakers, and choose the samples."""
        config = self.config
        held_out = next((corpora[role] for role in config.selecting), None)
        self.checkpoint.speakers = self.voices({name: rows.table for name, rows in corpora.items()})
        if held_out is not None and config.samples and accelerate.PartialState().is_main_process:
            # The shortest: an untrained model rarely stops before its limit, which grows with the input.
            order = np.argsort(held_out.table["seconds"], kind="stable")
            shown = self.dataset(StoredRows(held_out.table.select(order[: config.samples])))
            folder = Path(config.output_dir) / "samples"
            tracked = {"tensorboard", "all"}.intersection(trackers(config))
            tracker = tensorboard_folder(config.output_dir) if tracked else None
            self.samples = SpeechSamples(folder, shown, self.collator(), *self.sampler(shown), tracker)

    def cost(self, rows: Rows) -> np.ndarray:
        return np.asarray(rows.table["seconds"], dtype=float)

    def callbacks(self) -> list[TrainerCallback]:
        return [self.samples] if self.samples is not None else []

    def voices(self, corpora: Mapping[str, Dataset]) -> Speakers:
        """Return the embeddings of the speakers of all splits."""
        checkpoint, config = self.checkpoint, self.config
        size = checkpoint.config.speaker_embedding_dim
        encoder: SpeakerEncoder = MelStatistics(checkpoint.mels, size)
        if config.speaker_encoder:
            encoder = XVectors(config.speaker_encoder, allow_pickle=config.allow_pickle)
        else:
            logger.warning("no speaker_encoder is set: voices are represented by %s", encoder.name)
        with main_first(accelerate.PartialState()):  # the other processes read the embeddings that it caches
            return voices_of(corpora.values(), encoder, checkpoint.rate, size, config.trim_db)

    def new_weights(self) -> Collection[str]:
        found: list[str] = self.checkpoint.new_weights
        return found

    def can_evaluate_at_start(self) -> bool:
        return not self.config.from_scratch

    def evaluate(self, rows: Dataset) -> SpeechLosses:
        """Compute the losses of every utterance, a share of them per process.

        Raises:
            UserError: too many recordings cannot be read.
        """
        processes, model = accelerate.PartialState(), self.checkpoint.model
        data, collate = self.dataset(StoredRows(rows)), self.collator()
        batches = sorted_batches(self.cost(StoredRows(rows)), self.config.batch_seconds)
        device, training = next(model.parameters()).device, model.training
        found: list[tuple[int, dict[str, Any]]] = []
        model.eval()
        cuda = [device] if device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)  # the dropout of the prenet is active in evaluation too
            for batch in batches[processes.process_index :: processes.num_processes]:
                read = [(index, one) for index in batch if (one := data[(0, index)]) is not None]
                if not read:
                    continue
                tensors = collate([one for _, one in read])
                losses = self.criterion.losses(model, {name: value.to(device) for name, value in tensors.items()})
                frames = losses.frames.tolist()
                columns = [getattr(losses, part).tolist() for part in PARTS]
                for (index, one), count, *values in zip(read, frames, *columns, strict=True):
                    row = {"id": one["id"], "text": rows[index]["text"], "frames": count, "seconds": one["seconds"]}
                    found.append((index, row | dict(zip(PARTS, values, strict=True))))
        model.train(training)
        whole = [row for _, row in sorted(gather_object(found), key=lambda pair: pair[0])]
        check_evaluation(len(rows), len(rows) - len(whole), self.config.max_dropped_share)
        return SpeechLosses(whole)

    def compare(self, evaluation: SpeechLosses, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        return evaluation.compare(before) if metric == "loss" else None

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.checkpoint.save(folder, weights)

    def save_processor(self, folder: Path | str) -> None:
        self.checkpoint.save_processor(folder)


@dataclass
class SpeechLosses:
    """The losses of an evaluation.

    Args:
        utterances: in the order of the corpus; the losses of each are sums over its mel frames.
    """

    utterances: list[dict[str, Any]]

    def metrics(self) -> dict[str, float]:
        """Return the loss and its parts, as means over mel frames."""
        parts = means({key: sum(row[key] for row in self.utterances) for key in (*PARTS, "frames")})
        before, after, stop, guided = parts.values()
        return {"loss": before + after + stop + guided} | parts

    def table(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.metrics().items())

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of SPLIT.jsonl: each utterance with its losses per mel frame."""
        return [row | {part: round(row[part] / row["frames"], 5) for part in PARTS} for row in self.utterances]

    def compare(self, before: list[dict[str, Any]]) -> Comparison | None:
        """Return the paired difference of the loss to an earlier evaluation, from the lines of its SPLIT.jsonl; None if
        the utterances are not the same.
        """
        return compare_rows(
            self.rows(),
            before,
            lambda row: (row["frames"] * sum(row[part] for part in PARTS), row["frames"]),
            mean,
        )

    def save(self, folder: Path, split: str) -> None:
        """Write SPLIT.jsonl, a line per utterance with its losses per mel frame, and SPLIT.json."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{file_stem(split)}.jsonl", "w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows())
        hours = sum(row["seconds"] for row in self.utterances) / 3600
        figures = json.dumps(self.metrics() | {"utterances": len(self.utterances), "hours": hours}, indent=2)
        (folder / f"{file_stem(split)}.json").write_text(figures + "\n", encoding="utf-8")
