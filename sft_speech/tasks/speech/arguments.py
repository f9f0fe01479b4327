"""Arguments and output files of the verbs that make speech."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.options.settings import add_pickle_argument

if TYPE_CHECKING:
    from sft_speech.tasks.speech.generator import Speech


def add_generator_arguments(parser: argparse.ArgumentParser, speaker: bool = False) -> None:
    """Add the arguments of :class:`~sft_speech.tasks.speech.generator.SpeechGenerator`, and ``--speaker`` if wanted."""
    if speaker:
        help = "name of a voice of the model, embedding (.npy, .safetensors) or recording [the mean of all voices]"
        parser.add_argument("--speaker", metavar="VOICE", help=help)
    parser.add_argument("--vocoder", metavar="MODEL", help="directory or Hub id of a SpeechT5HifiGan [Griffin-Lim]")
    parser.add_argument("--speaker_encoder", metavar="MODEL", help="x-vector model for recordings [the model's own]")
    parser.add_argument("--seed", type=int, default=0, help="another seed varies the speech a little [0]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)


def generator_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the generator, without the vocoder."""
    return {name: getattr(args, name) for name in ("speaker_encoder", "seed", "device", "allow_pickle")}


def paths_in(folder: str, names: Iterable[str]) -> list[Path]:
    """Create a folder and return the paths of files in it.

    Raises:
        UserError: it cannot be created.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {folder}", f"it cannot be created ({error.strerror})", "choose another folder") from error
    return [Path(folder) / name for name in names]


def write(speech: Speech, path: Path) -> None:
    """Write a sound file, and print its path, its duration and why it ends."""
    speech.save(path)
    print(f"{path}\t{speech.seconds:.2f} s\t{speech.ending}")
