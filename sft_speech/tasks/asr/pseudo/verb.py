"""Label recordings with a recognizer, for a student to be trained on.

Rows without a transcript are labelled; with --ignore_text all rows are, and the report compares the labels with the
transcripts. Labels that should not be learned are filtered out, with reasons. The result is a manifest that a run takes
as its source. --resume continues an unfinished run; of a finished one it filters the labels again, for example with
another --min_confidence, without transcribing anything.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sft_speech.corpora.arguments import add_corpus_arguments, corpus_options
from sft_speech.corpora.weights import CONFIDENCE
from sft_speech.errors import UserError
from sft_speech.inference.processes import Process, end_with_parent, launch
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_dtype_argument, add_pickle_argument
from sft_speech.tasks.asr.ctc.decoding import add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.generation import Generation, add_generation_arguments, generation_of
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.tasks.asr.sharded import HOW_TO_RESUME

if TYPE_CHECKING:
    from sft_speech.tasks.asr.pseudo.filters import Filters

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech pseudo-label``."""
    from sft_speech.tasks.asr.pseudo.filters import CHARS_PER_SECOND, MAX_WER

    low, high = CHARS_PER_SECOND
    parser.add_argument("teacher", metavar="TEACHER", help="directory of a recognizer, or its id on the Hub")
    add_corpus_arguments(parser, what="label")
    add_output_argument(parser, "the manifest to write", metavar="FILE.jsonl", folder=False, required=True)
    parser.add_argument("--ignore_text", action="store_true", help="label rows that have a transcript too")
    parser.add_argument("--min_confidence", type=float, metavar="C", help="reject labels with a lower one, 0 to 1")
    parser.add_argument("--keep_share", type=float, metavar="S", help="keep this share of the labels, the surest ones")
    parser.add_argument(
        "--chars_per_second",
        type=float,
        nargs=2,
        default=CHARS_PER_SECOND,
        metavar=("LOW", "HIGH"),
        help=f"reject labels outside of these bounds [{low:g} {high:g}]",
    )
    parser.add_argument("--second_teacher", metavar="MODEL", help="reject labels from which its own differ")
    parser.add_argument(
        "--max_wer", type=float, default=MAX_WER, metavar="W", help=f"by a larger WER than this [{MAX_WER:g}]"
    )
    parser.add_argument(
        "--weight", type=weight_argument, default=1.0, metavar="W", help=f"in the loss: a number, or {CONFIDENCE} [1]"
    )
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_dtype_argument(parser)
    add_pickle_argument(parser)
    add_language_arguments(parser)
    add_decoding_arguments(parser)
    add_generation_arguments(parser)
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="processes, each on its own GPU [1]")
    parser.add_argument("--resume", action="store_true", help="continue an unfinished run, or filter again")


def weight_argument(given: str) -> float | str:
    """Return the weight of a command line."""
    return CONFIDENCE if given == CONFIDENCE else float(given)


def filters_of(args: argparse.Namespace) -> Filters:
    """Return the filters of a command line.

    Raises:
        UserError: a value is out of range.
    """
    from sft_speech.tasks.asr.pseudo.filters import Filters

    return Filters(args.min_confidence, args.keep_share, tuple(args.chars_per_second), args.max_wer)


def main(args: argparse.Namespace) -> int | None:
    """Label, filter, write the files and print the counts."""
    process, decoding, generation = Process.this(), decoding_of(args), generation_of(args)
    if args.num_processes < 1 or (args.num_processes > 1 and process.world > 1):
        why = "a launcher has already started processes" if process.world > 1 else "nothing would run"
        raise UserError(f"--num_processes {args.num_processes}", why, "leave it out")
    if process.world > 1:
        end_with_parent()
    from sft_speech.tasks.asr.pseudo.label import Teacher, pseudo_label
    from sft_speech.tasks.asr.transcribe import progress_bar

    common = {name: getattr(args, name) for name in ("device", "dtype", "max_batch_seconds", "allow_pickle")}
    teacher = Teacher(
        args.teacher, common | {"decoding": decoding, "generation": generation, "target_lang": args.target_lang}
    )
    second = None
    if args.second_teacher:
        second = Teacher(args.second_teacher, common | {"generation": Generation(language=args.language)})
    with progress_bar(shown=process.main) as bar:
        labels = pseudo_label(
            teacher,
            args.source,
            args.output,
            split=args.split,
            filters=filters_of(args),
            second_teacher=second,
            weight=args.weight,
            ignore_text=args.ignore_text,
            resume=args.resume,
            process=process,
            processes=args.num_processes,
            progress=bar.update,
            **corpus_options(args),
        )
    if labels is not None:
        print(labels.table)
        print(f"\n{labels.manifest}")
        return None
    if args.num_processes == 1:
        return None  # other processes are still at work
    code = launch([*args.argv, "--num_processes", "1", "--resume"], args.num_processes)
    if code or not Path(args.output).exists():
        logger.error("%s is unfinished: %s", args.output, HOW_TO_RESUME)
        return 1
    return None
