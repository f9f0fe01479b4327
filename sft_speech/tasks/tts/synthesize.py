"""Synthesize speech: a text into a sound file, or the lines of a file into a directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.tasks.speech.arguments import add_generator_arguments, generator_settings, paths_in, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech synthesize``."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a SpeechT5 for speech synthesis")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="text of any length")
    parser.add_argument("--lines", metavar="FILE", help="synthesize each line of this file, into numbered files")
    add_output_argument(parser, "sound file; a directory with --lines", metavar="FILE", required=True)
    add_generator_arguments(parser, speaker=True)


def main(args: argparse.Namespace) -> None:
    """Synthesize, write the sound files, print their paths and durations."""
    if (args.text is None) == (args.lines is None):
        raise UserError("TEXT and --lines", "exactly one of them is needed", "give a text, or a file of lines")
    if args.lines is None:
        texts, paths = [args.text], [Path(args.output)]
    else:
        texts = read_lines(args.lines)
        paths = paths_in(args.output, [f"{number:04d}.wav" for number, _ in enumerate(texts, 1)])
    from sft_speech.tasks.tts.synthesizer import Synthesizer

    synthesizer = Synthesizer(args.model, args.vocoder, **generator_settings(args))
    speeches = [synthesizer(args.text, args.speaker)] if args.lines is None else synthesizer(texts, args.speaker)
    for path, speech in zip(paths, speeches, strict=True):
        if len(speech.waveform):  # else the synthesizer has logged why
            write(speech, path)


def read_lines(file: str) -> list[str]:
    """Return the lines of a file that aren't empty.

    Raises:
        UserError: it cannot be read, or has no such lines.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lines {file}", f"it cannot be read ({error})", "give a text file in UTF-8") from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise UserError(f"--lines {file}", "it has no lines", "write one text per line")
    return texts
