"""The task of fine-tuning a SpeechT5 for voice conversion: its encoder takes recordings in place of texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import accelerate
import numpy as np
from transformers import SpeechT5ForSpeechToSpeech

from sft_speech.corpora import load_corpus
from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneVcConfig
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.data import SpokenUtterances, voice_name
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.task import SpeechTask
from sft_speech.tasks.vc.converter import VoiceConverter
from sft_speech.tasks.vc.pairs import PairedUtterances, Sources, select_pairs
from sft_speech.training.rows import Rows, StoredRows
from sft_speech.training.start import main_first

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class Conversion(SpeechTask[FinetuneVcConfig]):
    """Fine-tuning of a SpeechT5 that converts recordings to another voice."""

    sources: dict[str, Sources]  # by split

    def load(self, rows: Rows) -> None:
        if self.config.from_source is None:
            logger.info("no from_source: source_audio is a column of %s", self.config.source)
        with main_first(accelerate.PartialState()):  # the others find the index that it leaves
            self.sources = load_sources(self.config)
        super().load(rows)

    def load_checkpoint(self, rows: Rows) -> SpeechCheckpoint:
        config = self.config
        checkpoint = load_speech_checkpoint(
            config.checkpoint,
            kind=SpeechT5ForSpeechToSpeech,
            revision=config.revision,
            allow_pickle=config.allow_pickle,
            from_scratch=config.from_scratch,
        )
        # SpeechT5 masks spans of what it hears, as in its pretraining: here it would have to guess what was said there.
        checkpoint.config.apply_spec_augment = False
        return checkpoint

    def usable(self, name: str, rows: Rows, report: CorpusReport) -> Rows:
        pairs = select_pairs(
            rows.table,
            self.sources[name],
            name,
            report,
            min_seconds=self.config.min_seconds,
            max_seconds=self.config.max_seconds,
            checkpoint=self.checkpoint,
        )
        return StoredRows(pairs)

    def begin(self, corpora: Mapping[str, Rows]) -> None:
        trained = set(chain.from_iterable(corpora["train"].table["partners"]))
        for name, rows in corpora.items():
            pairs = rows.table["partners"]
            shared = sum(not trained.isdisjoint(partners) for partners in pairs)
            if shared and name != "train":
                logger.warning("%s: the source recordings of %d of %d pairs are trained on", name, shared, len(pairs))
        super().begin(corpora)

    def padded_seconds(self, rows: Dataset) -> np.ndarray:
        """Of what is heard or said, whichever is longer."""
        heard = self.sources["train"].seconds  # all splits look at the same rows
        longest = [max(heard[partner] for partner in partners) for partners in rows["partners"]]
        return np.maximum(super().padded_seconds(rows), longest)

    def utterances(self, rows: Dataset) -> PairedUtterances:
        trim_db, voices = self.config.trim_db, self.checkpoint.speakers
        return PairedUtterances(rows, self.checkpoint, voices, trim_db, self.sources["train"].rows)

    def collator(self) -> SpeechCollator:
        return SpeechCollator(self.checkpoint.config, hears=True)

    def speaking(self, shown: SpokenUtterances) -> tuple[SpeechGenerator, Callable[[int], Speech | None]]:
        assert isinstance(shown, PairedUtterances)
        config = self.config
        converter = VoiceConverter(self.checkpoint, config.vocoder, device="cpu", allow_pickle=config.allow_pickle)

        def speak(index: int) -> Speech | None:
            row = shown.rows[index]
            waveform = shown.source(row)
            return None if waveform is None else converter.convert(waveform, voice_name(row["speaker"]))

        return converter, speak

    def usage_hint(self, output: Path) -> str:
        return f"{output} converts with `sft-speech convert {output} RECORDING -o FILE.wav`"


def load_sources(config: FinetuneVcConfig) -> dict[str, Sources]:
    """The recordings to convert, by split: one corpus for all of them, or what each split's table of pairs names.

    Raises:
        UserError: see :func:`~sft_speech.corpora.load_corpus`; a table of pairs has segments.
    """
    splits, by = config.corpora, config.pair_by
    if config.from_source is not None:
        rows = load_corpus(
            config.from_source, config.from_split, name="from", config=config.from_config, columns=config.columns
        )
        return dict.fromkeys(splits, Sources(rows, by))
    import datasets

    tables = {
        (source, split): load_corpus(
            source, split, name="from", config=config.source_config, columns=config.from_columns
        )
        for source, split in dict.fromkeys(splits.values())
    }
    if any(start is not None for table in tables.values() for start in table["start"]):
        why = "a table of pairs names whole files, which of its two segments are meant isn't known"
        raise UserError(config.source, why, "cut the recordings, or give two tables: source and from_source")
    rows = datasets.concatenate_datasets(list(tables.values()))
    # Its column of speakers is about what the recordings become.
    rows = rows.remove_columns("speaker").add_column("speaker", [""] * len(rows))
    found, first = {}, 0
    for place, table in tables.items():
        found[place] = Sources(rows, by, range(first, first + len(table)))
        first += len(table)
    return {name: found[place] for name, place in splits.items()}
