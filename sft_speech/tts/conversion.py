"""Voice conversion as a fine-tuning run sees it: the run of synthesis, its texts replaced by recordings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
from transformers import SpeechT5ForSpeechToSpeech

from sft_speech.config import FinetuneVcConfig
from sft_speech.corpora import load_corpus
from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.hub import CONVERSION
from sft_speech.training.run import fine_tune
from sft_speech.training.start import main_first
from sft_speech.tts.checkpoint import load_speech_checkpoint
from sft_speech.tts.collator import SpeechCollator
from sft_speech.tts.converter import Converter
from sft_speech.tts.data import SpokenUtterances, voice_name
from sft_speech.tts.generator import Speech, SpeechGenerator
from sft_speech.tts.pairs import PairedUtterances, Sources, select_pairs
from sft_speech.tts.run import Synthesis

logger = logging.getLogger(__name__)


def run(config: FinetuneVcConfig) -> int:
    """Fine-tunes as ``config`` says. Returns 0, or 1 where the run was stopped before its end (it can be resumed)."""
    if config.from_source is None:
        target = config.columns["audio"]
        logger.info("no from_source: pairs are the columns source_audio and %s of %s", target, config.source)
    return fine_tune(config, Conversion(config))


class Conversion(Synthesis):
    """The job of :func:`~sft_speech.training.run.fine_tune`."""

    config: FinetuneVcConfig
    sources: Sources
    kind = CONVERSION

    def __init__(self, config: FinetuneVcConfig) -> None:
        super().__init__(config)
        self.partners: dict[str, list[int]] = {}

    def load(self, rows: Any) -> None:
        with main_first(accelerate.PartialState()):  # the others find the index that it leaves
            self.sources = Sources(load_sources(self.config), self.config.pair_by)
        super().load(rows)

    def load_checkpoint(self, rows: Any) -> None:
        config = self.config
        self.checkpoint = load_speech_checkpoint(
            config.model,
            kind=SpeechT5ForSpeechToSpeech,
            revision=config.revision,
            from_scratch=config.from_scratch,
        )
        # SpeechT5 masks spans of what it hears, as in its pretraining: here it would have to guess what was said there.
        self.checkpoint.config.apply_spec_augment = False

    def usable(self, name: str, rows: Any, report: CorpusReport) -> Any:
        rows, partners = select_pairs(
            rows,
            self.sources,
            name,
            report,
            min_seconds=self.config.min_seconds,
            max_seconds=self.config.max_seconds,
            checkpoint=self.checkpoint,
        )
        self.partners |= partners
        return rows

    def utterances(self, rows: Any) -> PairedUtterances:
        trim_db, voices = self.config.trim_db, self.checkpoint.speakers
        return PairedUtterances(rows, self.checkpoint, voices, trim_db, self.sources.rows, self.partners)

    def collator(self) -> SpeechCollator:
        return SpeechCollator(self.checkpoint.config, hears=True)

    def speaking(self, shown: SpokenUtterances) -> tuple[SpeechGenerator, Callable[[int], Speech | None]]:
        assert isinstance(shown, PairedUtterances)
        converter = Converter(self.checkpoint, self.config.vocoder, device="cpu")

        def speak(index: int) -> Speech | None:
            row = shown.rows[index]
            waveform = shown.source(row["id"])
            return None if waveform is None else converter.convert(waveform, voice_name(row["speaker"]))

        return converter, speak

    def farewell(self, output: Path) -> str:
        return f"{output} converts with `sft-speech convert {output} RECORDING -o FILE.wav`"


def load_sources(config: FinetuneVcConfig) -> Any:
    """The corpus of the recordings to convert.

    Raises:
        UserError: see :func:`~sft_speech.corpora.load_corpus`; a table of pairs has segments.
    """
    if config.from_source is not None:
        return load_corpus(config.from_source, config.from_split, name="from", columns=config.columns)
    splits = dict.fromkeys(config.corpora.values())
    import datasets

    tables = [
        load_corpus(source, split, name="from", config=config.source_config, columns=config.from_columns)
        for source, split in splits
    ]
    rows = datasets.concatenate_datasets(tables)
    if any(start is not None for start in rows["start"]):
        why = "a table of pairs names whole files, which of its two segments are meant isn't known"
        raise UserError(config.source, why, "cut the recordings, or give two tables: source and from_source")
    return rows
