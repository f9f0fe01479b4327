"""Say recordings again in another voice: one into a file, or several into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.tasks.speech.arguments import VOICE, add_generator_arguments, generator_settings, paths_in


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech convert``."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a SpeechT5 that converts speech, or its id on the Hub"
    )
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings of any format and length")
    add_output_argument(parser, "sound file; a directory for several", metavar="FILE", required=True)
    parser.add_argument("--speaker", metavar="V", help=VOICE)
    add_generator_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Converts, writes, and prints the files and their seconds."""
    paths = [Path(args.output)] if len(args.audio) == 1 else named(args.output, args.audio)
    overwritten = {path.resolve() for path in paths}.intersection(Path(recording).resolve() for recording in args.audio)
    if overwritten:
        raise UserError(f"-o {args.output}", f"{overwritten.pop()} would be overwritten", "name another file or folder")
    from sft_speech.tasks.vc.converter import VoiceConverter

    converter = VoiceConverter(args.model, args.vocoder, **generator_settings(args))
    for recording, path in zip(args.audio, paths, strict=True):
        speech = converter(recording, args.speaker)
        speech.save(path)
        print(f"{path}\t{speech.seconds:.2f} s")


def named(folder: str, recordings: list[str]) -> list[Path]:
    """A .wav of the same name in a folder, which is made, for each recording.

    Raises:
        UserError: two would have one name; the folder can't be made.
    """
    names = [Path(recording).stem + ".wav" for recording in recordings]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"-o {folder}", f"several recordings would become {twice[0]}", "convert them apart")
    return paths_in(folder, names)
