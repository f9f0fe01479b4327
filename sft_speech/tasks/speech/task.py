"""Synthesis as a fine-tuning run sees it: a SpeechT5, its data and its losses on speech that it was not trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import soundfile
import torch
from accelerate.utils import gather_object

from sft_speech.audio.read import samples_of
from sft_speech.corpora.report import CorpusReport, file_stem
from sft_speech.corpora.select import select_usable
from sft_speech.models.exact.speecht5 import make_padding_exact
from sft_speech.options.config import FinetuneSpeechConfig, FinetuneTtsConfig
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.data import SpokenUtterances, voice_name, voices_of
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.loss import SpectrogramCriterion
from sft_speech.tasks.speech.samples import SpeechSamples
from sft_speech.tasks.speech.speakers import MelStatistics, SpeakerEncoder, Speakers, XVectors
from sft_speech.tasks.speech.synthesizer import Synthesizer
from sft_speech.tasks.speech.vocabulary import add_characters
from sft_speech.training.plan import sorted_batches
from sft_speech.training.run import Parts, fine_tune
from sft_speech.training.skipped_audio import check_evaluation
from sft_speech.training.start import main_first, tensorboard_folder, trackers

logger = logging.getLogger(__name__)

PARTS = ("before", "after", "stop", "guided")


def run(config: FinetuneTtsConfig) -> int:
    """Fine-tunes as ``config`` says; see :func:`fine_tune`."""
    return fine_tune(config, Synthesis(config))


class Synthesis:
    """The job of :func:`~sft_speech.training.run.fine_tune`."""

    checkpoint: SpeechCheckpoint
    criterion: SpectrogramCriterion
    samples: SpeechSamples | None = None

    def __init__(self, config: FinetuneSpeechConfig) -> None:
        self.config = config
        self.metric = "loss"

    def load(self, rows: Any) -> None:
        self.load_checkpoint(rows)
        make_padding_exact(self.checkpoint.model)
        self.criterion = SpectrogramCriterion(self.checkpoint.model)

    def load_checkpoint(self, rows: Any) -> None:
        config = self.config
        assert isinstance(config, FinetuneTtsConfig)
        self.checkpoint = load_speech_checkpoint(
            config.model,
            revision=config.revision,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
            language=config.language,
        )
        if config.new_characters:
            add_characters(self.checkpoint, rows["text"])

    def usable(self, name: str, rows: Any, report: CorpusReport) -> Any:
        """The rows of a split that fit the model's positions, texts written for it; evaluation has the same limits."""
        checkpoint = self.checkpoint
        return select_usable(
            rows,
            name,
            report,
            min_seconds=self.config.min_seconds,
            max_seconds=self.config.max_seconds,
            normalize=checkpoint.text,
            encode=checkpoint.encode,
            frames_of=lambda seconds: checkpoint.frames(samples_of(seconds, checkpoint.rate)),
            max_missing_share=self.config.max_missing_share,
            why_unusable=lambda labels, frames: checkpoint.unfit(len(labels), frames),
        )

    def parts(self, corpora: dict[str, Any]) -> Parts:
        config, checkpoint, held_out = self.config, self.checkpoint, corpora.get("eval")
        checkpoint.speakers = self.voices(corpora)
        if held_out is not None and config.samples and accelerate.PartialState().is_main_process:
            # The shortest: for the ear and the eye, not for the minutes that an untrained model goes on.
            order = np.argsort(held_out["seconds"], kind="stable")
            shown = self.utterances(held_out.select(order[: config.samples]))
            folder = Path(config.output_dir) / "samples"
            tracked = {"tensorboard", "all"}.intersection(trackers(config))
            tracker = tensorboard_folder(config.output_dir) if tracked else None
            self.samples = SpeechSamples(folder, shown, self.collator(), *self.speaking(shown), tracker)
        return Parts(
            model=checkpoint.model,
            criterion=self.criterion,
            train=self.utterances(corpora["train"]),
            collate=self.collator(),
            seconds=self.padded_seconds(corpora["train"]),
            evaluate=(lambda: self.evaluate_and_speak(held_out)) if held_out is not None else None,
        )

    def voices(self, corpora: dict[str, Any]) -> Speakers:
        """Of every speaker in any split."""
        checkpoint, config = self.checkpoint, self.config
        size = checkpoint.config.speaker_embedding_dim
        encoder: SpeakerEncoder = MelStatistics(checkpoint.mels, size)
        if config.speaker_encoder:
            encoder = XVectors(config.speaker_encoder, allow_pickle=config.allow_pickle)
        else:
            logger.warning("no speaker_encoder: voices are told apart by %s", encoder.name)
        with main_first(accelerate.PartialState()):  # the others find the embeddings that it leaves
            return voices_of(corpora.values(), encoder, checkpoint.rate, size, config.trim_db)

    def padded_seconds(self, rows: Any) -> np.ndarray:
        """What each of the rows takes of a batch."""
        return np.asarray(rows["seconds"], dtype=float)

    def utterances(self, rows: Any) -> SpokenUtterances:
        return SpokenUtterances(rows, self.checkpoint, self.checkpoint.speakers, self.config.trim_db)

    def collator(self) -> SpeechCollator:
        return SpeechCollator(self.checkpoint.config)

    def speaking(self, shown: SpokenUtterances) -> tuple[SpeechGenerator, Callable[[int], Speech | None]]:
        """What speaks the samples, and has it say one of them, None where that can't be read."""
        config = self.config
        synthesizer = Synthesizer(self.checkpoint, config.vocoder, device="cpu", allow_pickle=config.allow_pickle)

        def speak(index: int) -> Speech:
            row = shown.rows[index]
            return synthesizer([row["text"]], voice_name(row["speaker"]))[0]

        return synthesizer, speak

    def evaluate_and_speak(self, rows: Any) -> dict[str, float]:
        figures = summary(self.evaluate(rows))
        if self.samples is not None:
            try:
                self.samples.write()
            except (OSError, soundfile.LibsndfileError) as error:  # training can do without them
                logger.warning("the samples could not be written (%s)", error)
        return figures

    def evaluate(self, rows: Any) -> list[dict[str, Any]]:
        """The losses of every utterance, each process a share of them, in the order of the corpus.

        Raises:
            UserError: too few of the recordings could be read.
        """
        processes, model = accelerate.PartialState(), self.checkpoint.model
        data, collate = self.utterances(rows), self.collator()
        batches = sorted_batches(self.padded_seconds(rows), self.config.max_batch_seconds)
        device, training = next(model.parameters()).device, model.training
        found: list[tuple[int, dict[str, Any]]] = []
        model.eval()
        cuda = [device] if device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)  # the prenet drops out in evaluation too: every evaluation alike
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
        return whole

    def final_evaluation(self, rows: Any, split: str, folder: Path) -> dict[str, float]:
        losses = self.evaluate(rows)
        figures = summary(losses)
        if accelerate.PartialState().is_main_process:
            save_evaluation(losses, figures, folder, split)
        return figures

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.checkpoint.save(folder, weights)

    def save_processor(self, folder: Path | str) -> None:
        self.checkpoint.save_processor(folder)

    def usage_hint(self, output: Path) -> str:
        return f"{output} speaks with `sft-speech synthesize {output} TEXT -o FILE.wav`"


def summary(losses: list[dict[str, Any]]) -> dict[str, float]:
    """Means over mel frames: the loss and its parts."""
    frames = sum(row["frames"] for row in losses)
    before, after, stop, guided = (sum(row[part] for row in losses) / frames for part in PARTS)
    return {
        "loss": before + after + stop + guided,
        "mel_loss_before_postnet": before,
        "mel_loss": after,
        "stop_loss": stop,
        "attention_loss": guided,
    }


def save_evaluation(losses: list[dict[str, Any]], figures: dict[str, float], folder: Path, split: str) -> None:
    """Writes SPLIT.jsonl, a line per utterance with its losses per frame, and SPLIT.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{file_stem(split)}.jsonl", "w", encoding="utf-8") as lines:
        for row in losses:
            per_frame = {part: round(row[part] / row["frames"], 5) for part in PARTS}
            lines.write(json.dumps(row | per_frame, ensure_ascii=False) + "\n")
    hours = sum(row["seconds"] for row in losses) / 3600
    counts = {"utterances": len(losses), "hours": hours}
    (folder / f"{file_stem(split)}.json").write_text(json.dumps(figures | counts, indent=2) + "\n", encoding="utf-8")
