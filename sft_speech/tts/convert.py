"""Say recordings again in another voice: one into a file, or several into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from sft_speech.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech convert``."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a SpeechT5 that converts speech, or its id on the Hub"
    )
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings of any format and length")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="sound file; a folder for several")
    parser.add_argument(
        "--speaker",
        metavar="V",
        help="a voice of the model, an embedding (.npy, .safetensors) or a recording [the mean]",
    )
    parser.add_argument("--vocoder", metavar="MODEL", help="directory or id of a SpeechT5HifiGan [Griffin-Lim]")
    parser.add_argument("--speaker_encoder", metavar="MODEL", help="x-vector model for recordings [the model's own]")
    parser.add_argument("--seed", type=int, default=0, help="another one says it a little differently [0]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")


def main(args: argparse.Namespace) -> None:
    """Converts, writes, and prints the files and their seconds."""
    paths = [Path(args.output)] if len(args.audio) == 1 else named(args.output, args.audio)
    from sft_speech.tts.converter import Converter

    converter = Converter(
        args.model, args.vocoder, speaker_encoder=args.speaker_encoder, device=args.device, seed=args.seed
    )
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
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {folder}", f"it can't be made ({error.strerror})", "choose another folder") from error
    return [Path(folder) / name for name in names]
