"""Classify recordings: files, or folders of them.

text: a line per recording, its path, its channel if one is chosen, and the most probable labels. jsonl: an object per
recording. csv: a row per recording and label.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sft_speech.corpora.arguments import add_channel_argument
from sft_speech.errors import UserError, printable
from sft_speech.options.settings import add_dtype_argument, add_pickle_argument
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from sft_speech.tasks.classification.classifier import Classification

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech classify``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, folders or lists of them; - is stdin")
    add_channel_argument(parser, "split")
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="number of labels per recording, the most probable first [1]"
    )
    parser.add_argument("--format", choices=("text", "jsonl", "csv"), default="text", help="[text]")
    parser.add_argument("-o", "--output", metavar="FILE", help="output file [stdout]")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_dtype_argument(parser)
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Classify in the order given; return 1 if some recordings could not be read, otherwise 0.

    Raises:
        UserError: no recording could be read.
    """
    if args.top < 1:
        raise UserError(f"--top {args.top}", "there is nothing to show", "give 1 or more")
    from sft_speech.audio.channels import MIX
    from sft_speech.inference.channels import recordings_of
    from sft_speech.inference.inputs import STDIN, given_audio
    from sft_speech.tasks.classification.classifier import Classifier

    given, failed = given_audio(args.audio), 0
    if not isinstance(given[0] if given else None, Mapping):
        paths = [path for path in given if isinstance(path, Path)]
        files: list[Any] = [one.audio for one in recordings_of(paths, args.channel)]
    elif args.channel in (None, MIX):  # a recording from standard input
        files = list(given)
    else:
        raise UserError(f"{STDIN} --channel {args.channel}", "all of standard input is mixed", "give a file")
    channels = args.channel not in (None, MIX)
    classifier = Classifier(args.model, args.device, args.max_batch_seconds, args.allow_pickle, args.dtype)
    with contextlib.ExitStack() as stack:
        stream: TextIO = sys.stdout
        if args.output not in (None, "-"):
            try:
                stream = stack.enter_context(open(args.output, "w", encoding="utf-8", errors="backslashreplace"))
            except OSError as error:
                raise UserError(
                    f"-o {args.output}", f"it cannot be written ({error.strerror})", "name another file"
                ) from error
        if args.format == "csv":
            csv.writer(stream, lineterminator="\n").writerow(
                ["audio", *["channel"] * channels, "label", "probability", "error"]
            )
        for found in classifier.stream(files):
            failed += bool(found.error)
            write(stream, found, args.format, args.top, channels)
    if failed == len(files):
        raise UserError(counted(failed, "recording"), "none of them could be classified", "see the messages above")
    if failed:
        logger.warning("%d of %s could not be classified", failed, counted(len(files), "recording"))
    return int(failed > 0)


def write(stream: TextIO, found: Classification, format: str, top: int, channels: bool) -> None:
    """Write the classification of a recording, with its channel if ``channels``."""
    labels = [(label, round(p, 4)) for label, p in found.labels[:top]]
    if format == "jsonl":
        row: dict[str, Any] = {
            "audio": found.audio,
            **({"channel": found.channel} if found.channel else {}),
            "labels": [{"label": label, "probability": p} for label, p in labels],
        }
        row |= {"error": found.error} if found.error else {"seconds": round(found.seconds, 3)}
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    elif format == "csv":
        shown, named = labels if labels else [("", "")], [found.audio, *[found.channel] * channels]
        csv.writer(stream, lineterminator="\n").writerows((*named, *one, found.error) for one in shown)
    elif not found.error:  # a warning has named the others
        text = "\t".join([found.audio, *filter(None, [found.channel]), *(f"{label} {p:.4f}" for label, p in labels)])
        stream.write((printable(text) if stream.isatty() else text.replace("\n", "\\n")) + "\n")
    stream.flush()
