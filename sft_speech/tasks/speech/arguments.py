"""Arguments and output files that the verbs of speaking and converting have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.options.settings import add_pickle_argument

VOICE = "a voice of the model, an embedding (.npy, .safetensors) or a recording [the mean]"


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of :class:`~sft_speech.tasks.speech.generator.SpeechGenerator`."""
    parser.add_argument("--vocoder", metavar="MODEL", help="directory or id of a SpeechT5HifiGan [Griffin-Lim]")
    parser.add_argument("--speaker_encoder", metavar="MODEL", help="x-vector model for recordings [the model's own]")
    parser.add_argument("--seed", type=int, default=0, help="another one says it a little differently [0]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)


def generator_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What they say, but for the vocoder."""
    return {name: getattr(args, name) for name in ("speaker_encoder", "seed", "device", "allow_pickle")}


def paths_in(folder: str, names: Iterable[str]) -> list[Path]:
    """Files of such names in a folder, which is made.

    Raises:
        UserError: it can't be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {folder}", f"it can't be made ({error.strerror})", "choose another folder") from error
    return [Path(folder) / name for name in names]
