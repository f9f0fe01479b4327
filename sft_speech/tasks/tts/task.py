"""The task of fine-tuning a SpeechT5 for speech synthesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sft_speech.audio.units import samples_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.options.config import FinetuneTtsConfig
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.data import SpokenUtterances, voice_name
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.synthesizer import Synthesizer
from sft_speech.tasks.speech.task import SpeechTask
from sft_speech.tasks.speech.vocabulary import add_characters
from sft_speech.training.rows import Rows

if TYPE_CHECKING:
    from datasets import Dataset


class Synthesis(SpeechTask[FinetuneTtsConfig]):
    """Fine-tuning of a SpeechT5 that speaks texts."""

    def load_checkpoint(self, rows: Rows) -> SpeechCheckpoint:
        config = self.config
        checkpoint = load_speech_checkpoint(
            config.checkpoint,
            revision=config.revision,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
            language=config.language,
        )
        if config.new_characters:
            add_characters(checkpoint, rows.texts())
        return checkpoint

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the rows that fit the model's positions, in evaluation too, texts in the characters it knows."""
        checkpoint = self.checkpoint
        return rows.select(
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

    def utterances(self, rows: Dataset) -> SpokenUtterances:
        return SpokenUtterances(rows, self.checkpoint, self.checkpoint.speakers, self.config.trim_db)

    def collator(self) -> SpeechCollator:
        return SpeechCollator(self.checkpoint.config)

    def speaking(self, shown: SpokenUtterances) -> tuple[SpeechGenerator, Callable[[int], Speech | None]]:
        config = self.config
        synthesizer = Synthesizer(self.checkpoint, config.vocoder, device="cpu", allow_pickle=config.allow_pickle)

        def speak(index: int) -> Speech:
            row = shown.rows[index]
            return synthesizer([row["text"]], voice_name(row["speaker"]))[0]

        return synthesizer, speak

    def usage_hint(self, output: Path) -> str:
        return f"{output} speaks with `sft-speech synthesize {output} TEXT -o FILE.wav`"
