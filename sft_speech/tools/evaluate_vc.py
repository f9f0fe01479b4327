"""Measure converted recordings against the recordings of a target corpus, and against the unconverted ones.

Writes SPLIT.jsonl (one line per utterance) and SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.arguments import rows_of_arguments
from sft_speech.tasks.speech.arguments import generator_settings
from sft_speech.tools.evaluate_tts import add_shared_arguments, measure

if TYPE_CHECKING:
    import numpy as np

    from sft_speech.tasks.speech.generator import Speech


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate-vc``."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a SpeechT5 for voice conversion")
    parser.add_argument("--from_source", help="corpus of the recordings to convert [column source_audio of --source]")
    parser.add_argument("--from_config", metavar="NAME", help="configuration of --from_source on the Hub")
    parser.add_argument("--from_split", metavar="SPLIT", help="split of --from_source [all rows]")
    parser.add_argument("--pair_by", choices=("id", "text"), default="id", help="column that joins pairs [id]")
    add_shared_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Convert and measure; write both files and print the table."""
    import numpy as np

    from sft_speech.tasks.vc.config import FinetuneVcConfig
    from sft_speech.tasks.vc.converter import VoiceConverter
    from sft_speech.tasks.vc.pairs import PairedUtterances, select_pairs
    from sft_speech.tasks.vc.task import load_sources

    converter = VoiceConverter(args.model, args.vocoder, **generator_settings(args))
    names = "source source_config from_source from_config from_split pair_by audio_column text_column speaker_column"
    given = {name: getattr(args, name) for name in names.split()}
    config = FinetuneVcConfig(model=args.model, train_split=args.split, output_dir="unused", **given)
    sources = load_sources(config)["train"]
    targets, split, report = rows_of_arguments(args, **config.columns)
    checkpoint = converter.checkpoint
    rows = select_pairs(targets, sources, split, report, min_seconds=0.1, max_seconds=1e9, checkpoint=checkpoint)
    if report.dropped(split):
        print(report.table())
    pairs = PairedUtterances(rows, checkpoint, checkpoint.speakers, None, sources.rows)

    def say(row: dict[str, Any], voice: str | None) -> tuple[Speech, np.ndarray]:
        recording = pairs.source(row)  # None if it could not be decoded, which was logged
        recording = np.zeros(0, np.float32) if recording is None else recording
        return converter.convert(recording, voice), recording

    measure(args, converter, rows, split, say)
