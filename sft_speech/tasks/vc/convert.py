"""Convert recordings to another voice: one into a sound file, or several into a directory."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.tasks.speech.arguments import add_generator_arguments, generator_settings, paths_in, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech convert``."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a SpeechT5 for voice conversion")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings, folders or lists of them")
    add_output_argument(parser, "sound file; a directory for several", metavar="FILE", required=True)
    add_generator_arguments(parser, speaker=True)


def main(args: argparse.Namespace) -> None:
    """Convert, write the sound files, print their paths and durations."""
    from sft_speech.inference.inputs import find_audio

    files = find_audio(args.audio)
    one = len(args.audio) == 1 and Path(args.audio[0]).is_file() and len(files) == 1
    paths = [Path(args.output)] if one else output_paths(args.output, files, args.audio)
    overwritten = {path.resolve() for path in paths}.intersection(recording.resolve() for recording in files)
    if overwritten:
        raise UserError(f"-o {args.output}", f"{overwritten.pop()} would be overwritten", "name another file or folder")
    from sft_speech.tasks.vc.converter import VoiceConverter

    converter = VoiceConverter(args.model, args.vocoder, **generator_settings(args))
    for recording, path in zip(files, paths, strict=True):
        write(converter(recording, args.speaker), path)


def output_paths(folder: str, recordings: list[Path], given: list[str]) -> list[Path]:
    """Create a folder and return the path of each recording's conversion in it, a .wav of the same name.

    Args:
        given: the arguments that named them: a recording of a folder keeps its place in it.

    Raises:
        UserError: two recordings have the same name, or the folder cannot be created.
    """
    from sft_speech.inference.inputs import relative_names

    names = [str(name.with_suffix(".wav")) for name in relative_names(recordings, given)]
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        do = "convert them one at a time"
        raise UserError(f"-o {folder}", f"several recordings would be written to {duplicates[0]}", do)
    paths = paths_in(folder, names)
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    return paths
