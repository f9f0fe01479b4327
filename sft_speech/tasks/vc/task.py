"""The task of fine-tuning a SpeechT5 for voice conversion: its encoder takes recordings instead of texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
from transformers import SpeechT5ForSpeechToSpeech

from sft_speech.corpora import load_corpus
from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
from sft_speech.tasks.speech.data import Utterances, voice_name
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.samples import MakeSpeech
from sft_speech.tasks.speech.task import SpeechTask
from sft_speech.tasks.vc.config import FinetuneVcConfig
from sft_speech.tasks.vc.converter import VoiceConverter
from sft_speech.tasks.vc.pairs import PairedUtterances, Sources, select_pairs
from sft_speech.training.rows import Rows, StoredRows
from sft_speech.training.start import main_first

logger = logging.getLogger(__name__)


class Conversion(SpeechTask[FinetuneVcConfig]):
    """Fine-tuning of a SpeechT5 for voice conversion."""

    kind = SpeechT5ForSpeechToSpeech
    from_audio = True
    sources: dict[str, Sources]  # by split

    def load(self, rows: Rows) -> None:
        if self.config.from_source is None:
            logger.info("no from_source: the source recordings are column source_audio of %s", self.config.source)
        with main_first(accelerate.PartialState()):  # the other processes use its cache
            self.sources = load_sources(self.config)
        super().load(rows)

    def load_checkpoint(self, rows: Rows, language: str | None = None) -> SpeechCheckpoint:
        checkpoint = super().load_checkpoint(rows)
        # By default SpeechT5 masks spans of its input, as in pretraining, and would have to guess their words.
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

    def cost(self, rows: Rows) -> np.ndarray:
        """Return the length of the source or the target, whichever is longer."""
        sources = self.sources["train"].seconds  # all splits index the same rows
        longest = [max(sources[partner] for partner in partners) for partners in rows.table["partners"]]
        return np.maximum(super().cost(rows), longest)

    def dataset(self, rows: Rows) -> PairedUtterances:
        trim_db, voices = self.config.trim_db, self.checkpoint.speakers
        return PairedUtterances(rows.table, self.checkpoint, voices, trim_db, self.sources["train"].rows)

    def sampler(self, shown: Utterances) -> tuple[SpeechGenerator, MakeSpeech]:
        assert isinstance(shown, PairedUtterances)
        converter = self.generator(VoiceConverter)

        def convert(row: dict[str, Any]) -> Speech | None:
            waveform = shown.source(row)
            return None if waveform is None else converter.convert(waveform, voice_name(row["speaker"]))

        return converter, convert

    def usage_hint(self, output: Path) -> str:
        return f"{output} converts with `sft-speech convert {output} RECORDING -o FILE.wav`"


def load_sources(config: FinetuneVcConfig) -> dict[str, Sources]:
    """Load the recordings to convert, by split: from ``from_source`` for all, or from each split's table of pairs.

    Raises:
        UserError: see :func:`~sft_speech.corpora.load_corpus`; or a table of pairs has segments.
    """
    splits, by = config.corpora, config.pair_by
    if config.from_source is not None:
        rows = load_corpus(
            config.from_source,
            config.from_split,
            name="from",
            config=config.from_config,
            columns=config.columns,
            channel=config.channel,
        )
        return dict.fromkeys(splits, Sources(rows, by))
    import datasets

    tables = {
        (source, split): load_corpus(
            source, split, name="from", config=config.source_config, columns=config.from_columns, channel=config.channel
        )
        for source, split in dict.fromkeys(splits.values())
    }
    if any(start is not None for table in tables.values() for start in table["start"]):
        why = "a table of pairs cannot have segments: it does not say which of the two files they belong to"
        raise UserError(config.source, why, "cut the recordings, or give two tables: source and from_source")
    rows = datasets.concatenate_datasets(list(tables.values()))
    # The speakers of a table of pairs are those of the targets.
    rows = rows.remove_columns("speaker").add_column("speaker", [""] * len(rows))
    found, first = {}, 0
    for place, table in tables.items():
        found[place] = Sources(rows, by, range(first, first + len(table)))
        first += len(table)
    return {name: found[place] for name, place in splits.items()}
