"""Measure how a model converts recordings into those of a corpus: against these, and against leaving them as they are.

Writes evaluation/SPLIT.jsonl (one line per utterance) and evaluation/SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
from typing import Any

from sft_speech.tasks.speech.arguments import generator_settings
from sft_speech.tools.evaluate_tts import add_shared_arguments, measure, split_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech evaluate-vc``."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a SpeechT5 that converts speech, or its id on the Hub"
    )
    parser.add_argument("--from_source", help="corpus of the recordings to convert [column source_audio of --source]")
    parser.add_argument("--from_config", metavar="NAME", help="configuration of it, where it is a Hub dataset")
    parser.add_argument("--from_split", metavar="SPLIT", help="split of it [all rows]")
    parser.add_argument("--pair_by", choices=("id", "text"), default="id", help="what pairs have in common [id]")
    add_shared_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Converts, measures, writes both files, prints the table."""
    import numpy as np

    from sft_speech.corpora import load_corpus
    from sft_speech.corpora.report import CorpusReport
    from sft_speech.options.config import FinetuneVcConfig
    from sft_speech.tasks.vc.converter import VoiceConverter
    from sft_speech.tasks.vc.pairs import PairedUtterances, select_pairs
    from sft_speech.tasks.vc.task import load_sources

    converter = VoiceConverter(args.model, args.vocoder, **generator_settings(args))
    same = ("source", "source_config", "from_source", "from_config", "from_split", "pair_by")
    asked = {name: getattr(args, name) for name in same}
    config = FinetuneVcConfig(model=args.model, train_split=args.split, output_dir="unused", **asked)
    sources = load_sources(config)["train"]
    name, report, checkpoint = split_name(args), CorpusReport(), converter.checkpoint
    targets = load_corpus(args.source, args.split, name=name, config=args.source_config, columns=config.columns)
    rows = select_pairs(targets, sources, name, report, min_seconds=0.1, max_seconds=1e9, checkpoint=checkpoint)
    if report.dropped(name):
        print(report.table())
    pairs = PairedUtterances(rows, checkpoint, checkpoint.speakers, None, sources.rows)

    def say(row: dict[str, Any], voice: str | None) -> tuple[Any, Any]:
        heard = pairs.source(row)
        heard = np.zeros(0, np.float32) if heard is None else heard  # the message has told why
        return converter.convert(heard, voice), heard

    measure(args, converter, rows, say)
