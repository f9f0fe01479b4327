"""Check a corpus before training: its content, likely errors, and the rows that a run would drop.

Nothing is changed. The headers of all files are read, and up to --max_hours of audio are decoded. With --model it is
also transcribed, and transcripts that differ too much from the hypotheses are listed. The exit code is 0 whatever is
found, unless --strict is given.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sft_speech.corpora.arguments import add_channel_argument
from sft_speech.errors import UserError
from sft_speech.files import check_output
from sft_speech.tasks.asr.languages import add_language_arguments

MAX_HOURS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech check``."""
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="corpus: a folder, a manifest or a Hub id")
    parser.add_argument(
        "--split",
        action="append",
        metavar="SPLIT",
        help="a split to check; may be repeated [all splits]; those named train... count as training data",
    )
    parser.add_argument("--model", metavar="MODEL", help="a recognizer, to find wrong transcripts")
    add_language_arguments(parser)
    parser.add_argument("--config", metavar="FILE", help="YAML of a run: check its corpora with its options")
    for key, what in (("min_seconds", "shorter"), ("max_seconds", "longer")):
        parser.add_argument(f"--{key}", type=float, metavar="S", help=f"drop {what} utterances [as a run does]")
    parser.add_argument("--source_config", metavar="NAME", help="configuration of a Hub dataset")
    for role in ("audio", "text", "speaker"):
        parser.add_argument(
            f"--{role}_column", metavar="NAME", help=f"name of the {role} column [recognized by itself]"
        )
    add_channel_argument(parser)
    parser.add_argument(
        "--max_hours",
        type=float,
        default=MAX_HOURS,
        metavar="H",
        help=f"audio to decode and transcribe: a sample of a larger corpus; 0: none [{MAX_HOURS:g}]",
    )
    parser.add_argument("--device", help="for the model: cpu, cuda, cuda:1, ... [a GPU if there is one]")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="write one HTML page with figures and audio players")
    parser.add_argument("--strict", action="store_true", help="exit with code 1 if there are problems")


def main(args: argparse.Namespace) -> int:
    """Check the corpus, print the table, write the files."""
    for flag, file in (("--json", args.json), ("--html", args.html)):
        if file:
            check_output(flag, file)
    if not args.max_hours >= 0:
        raise UserError(f"--max_hours {args.max_hours}", "it must be 0 or more", "give a number of hours")
    from sft_speech.tools.check.checked import examine

    checked = examine(args)
    report = checked.report
    print(report.table())
    if args.json:
        text = json.dumps(report.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        Path(args.json).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    if args.html:
        from sft_speech.tools.check.page import page

        Path(args.html).write_text(page(checked), encoding="utf-8")
    for file in filter(None, (args.json, args.html)):
        print(file)
    return 1 if args.strict and report.count("problem") else 0
