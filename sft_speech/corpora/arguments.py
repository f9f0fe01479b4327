"""The arguments by which a verb names the rows of a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.corpora.report import CorpusReport


def add_corpus_arguments(parser: argparse.ArgumentParser, required: bool = True, what: str = "evaluate on") -> None:
    """Add ``--source`` and the options that choose a part of it, for what to do with it."""
    parser.add_argument("--source", required=required, help="corpus: a folder, a manifest file or a Hub id")
    parser.add_argument("--source_config", metavar="NAME", help="configuration of a Hub dataset")
    parser.add_argument("--split", metavar="SPLIT", help=f"split to {what}; join several with '+' [all rows]")
    for role in ("audio", "text", "speaker"):
        parser.add_argument(
            f"--{role}_column", metavar="NAME", help=f"column of the {role}, if it is not recognized by its name"
        )
    add_channel_argument(parser)


def add_channel_argument(parser: argparse.ArgumentParser, *further: str) -> None:
    """Add ``--channel``; ``further`` are more choices."""
    help = "channel of recordings of several, if no column channel names it [mix; a warning if they differ]"
    parser.add_argument("--channel", choices=("left", "right", "mix", *further), help=help)


def rows_of_arguments(args: argparse.Namespace, **columns: str | None) -> tuple[Dataset, str, CorpusReport]:
    """Read the rows that the arguments name.

    Args:
        columns: columns of further roles, see :func:`~sft_speech.corpora.load_corpus`.

    Returns:
        The rows, the name of their split, and a report of the rows that cannot be used.
    """
    from sft_speech.corpora import load_corpus
    from sft_speech.corpora.report import CorpusReport

    options, report = corpus_options(args, **columns), CorpusReport()
    return load_corpus(args.source, args.split, report=report, **options), options["name"], report


def corpus_options(args: argparse.Namespace, **columns: str | None) -> dict[str, Any]:
    """Return the arguments of :func:`~sft_speech.corpora.load_corpus` after source and split."""
    named = {role: getattr(args, f"{role}_column") for role in ("audio", "text", "speaker")}
    chosen = {role: column for role, column in named.items() if column} | columns
    source = Path(args.source)  # corpus.csv is "corpus", the folder LJSpeech-1.1 keeps its name
    name = args.split or (source.stem if source.is_file() else source.name)
    return {"name": name, "config": args.source_config, "columns": chosen, "channel": args.channel}


def evaluation_folder(model: str, output: str | None) -> Path:
    """Return the folder of an evaluation: beside the model's directory, which holds that of its training run."""
    if output:
        return Path(output) / "evaluation"
    folder = Path(model)
    return folder.resolve().with_name(f"{folder.resolve().name}-evaluation") if folder.is_dir() else Path("evaluation")
