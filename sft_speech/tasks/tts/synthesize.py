"""Speak texts: one into a file, or the lines of a file into a folder."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.tasks.speech.arguments import VOICE, add_generator_arguments, generator_settings, paths_in

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech synthesize``."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a SpeechT5 that speaks texts, or its id on the Hub"
    )
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to say")
    parser.add_argument("--lines", metavar="FILE", help="say each line of a file instead, into numbered files")
    add_output_argument(parser, "sound file; a directory with --lines", metavar="FILE", required=True)
    parser.add_argument("--speaker", metavar="V", help=VOICE)
    add_generator_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Speaks, writes, and prints the file and its seconds."""
    if (args.text is None) == (args.lines is None):
        raise UserError("TEXT and --lines", "one of them says what to say", "give a text, or a file of lines")
    texts = [args.text] if args.lines is None else read_lines(args.lines)
    paths = (
        [Path(args.output)]
        if args.lines is None
        else paths_in(args.output, [f"{number:04d}.wav" for number, _ in enumerate(texts, 1)])
    )
    from sft_speech.tasks.speech.synthesizer import Synthesizer

    synthesizer = Synthesizer(args.model, args.vocoder, **generator_settings(args))
    if args.lines is None:
        speeches = [synthesizer(args.text, args.speaker)]
    else:
        speeches = synthesizer(texts, args.speaker)
    for path, speech in zip(paths, speeches, strict=True):
        if len(speech.waveform):  # else the warning has told
            speech.save(path)
            print(f"{path}\t{speech.seconds:.2f} s")


def read_lines(file: str) -> list[str]:
    """The lines of a file that aren't empty."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lines {file}", f"it can't be read ({error})", "give a text file in UTF-8") from error
    said = [line for line in lines if line.strip()]
    if not said:
        raise UserError(f"--lines {file}", "it has no lines", "write one text per line")
    return said
