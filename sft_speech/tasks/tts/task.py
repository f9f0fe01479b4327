"""The task of fine-tuning a SpeechT5 for speech synthesis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import SpeechT5ForTextToSpeech

from sft_speech.audio.units import samples_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
from sft_speech.tasks.speech.data import Utterances, voice_name
from sft_speech.tasks.speech.generator import SpeechGenerator
from sft_speech.tasks.speech.samples import MakeSpeech
from sft_speech.tasks.speech.task import SpeechTask
from sft_speech.tasks.tts.config import FinetuneTtsConfig
from sft_speech.tasks.tts.synthesizer import Synthesizer
from sft_speech.tasks.tts.text import SpeakableText
from sft_speech.tasks.tts.vocabulary import add_characters
from sft_speech.text.markup import WithoutMarks
from sft_speech.training.rows import Rows


class Synthesis(SpeechTask[FinetuneTtsConfig]):
    """Fine-tuning of a SpeechT5 for speech synthesis."""

    kind = SpeechT5ForTextToSpeech

    def load_checkpoint(self, rows: Rows, language: str | None = None) -> SpeechCheckpoint:
        checkpoint = super().load_checkpoint(rows, self.config.language)
        if self.config.new_characters:
            add_characters(checkpoint, rows.texts())
        self.text = SpeakableText(checkpoint.tokenizer.get_vocab(), checkpoint.language)
        return checkpoint

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        """Return the rows that the model has positions for, with normalized texts."""
        checkpoint = self.checkpoint
        return rows.select(
            name,
            report,
            min_seconds=self.config.min_seconds,
            max_seconds=self.config.max_seconds,
            normalize=WithoutMarks(self.text, self.config.language),
            encode=checkpoint.encode,
            frames_of=lambda seconds: checkpoint.frames(samples_of(seconds, checkpoint.rate)),
            max_missing_share=self.config.max_missing_share,
            why_unusable=lambda labels, frames: checkpoint.why_unusable(len(labels), frames),
        )

    def begin(self, corpora: Mapping[str, Rows]) -> None:
        self.checkpoint.note_longest(corpora["train"].texts(), self.config.from_scratch)
        super().begin(corpora)

    def dataset(self, rows: Rows) -> Utterances:
        return Utterances(rows.table, self.checkpoint, self.checkpoint.speakers, self.config.trim_db)

    def sampler(self, shown: Utterances) -> tuple[SpeechGenerator, MakeSpeech]:
        synthesizer = self.generator(Synthesizer)
        return synthesizer, lambda row: synthesizer([row["text"]], voice_name(row["speaker"]))[0]

    def usage_hint(self, output: Path) -> str:
        return f"{output} synthesizes speech with `sft-speech synthesize {output} TEXT -o FILE.wav`"
