"""Measure how a model converts recordings into those of a corpus: against these, and against leaving them as they are.

Writes evaluation/SPLIT.jsonl (one line per utterance) and evaluation/SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
from typing import Any

from sft_speech.evaluate_tts import add_shared_arguments, measure, split_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech evaluate-vc``."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a SpeechT5 that converts speech, or its id on the Hub"
    )
    parser.add_argument("--from_source", required=True, help="corpus of the recordings to convert")
    parser.add_argument("--from_split", metavar="SPLIT", help="split of it [all rows]")
    parser.add_argument("--pair_by", choices=("id", "text"), default="id", help="what pairs have in common [id]")
    add_shared_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Converts, measures, writes both files, prints the table."""
    import numpy as np

    from sft_speech.corpora import load_corpus
    from sft_speech.corpora.report import CorpusReport
    from sft_speech.tts.converter import Converter
    from sft_speech.tts.pairs import PairedUtterances, Sources, select_pairs

    converter = Converter(
        args.model, args.vocoder, speaker_encoder=args.speaker_encoder, device=args.device, seed=args.seed
    )
    sources = Sources(load_corpus(args.from_source, args.from_split, name="from"), args.pair_by)
    name, report, checkpoint = split_name(args), CorpusReport(), converter.checkpoint
    targets = load_corpus(args.source, args.split, name=name, config=args.source_config)
    rows, partners = select_pairs(
        targets, sources, name, report, min_seconds=0.1, max_seconds=1e9, checkpoint=checkpoint
    )
    if report.dropped(name):
        print(report.table())
    pairs = PairedUtterances(rows, checkpoint, checkpoint.speakers, None, sources.rows, partners)

    def say(row: dict[str, Any], voice: str | None) -> tuple[Any, Any]:
        heard = pairs.source(row["id"])
        heard = np.zeros(0, np.float32) if heard is None else heard  # the message has told why
        return converter.convert(heard, voice), heard

    measure(args, converter, rows, say)
