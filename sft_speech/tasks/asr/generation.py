"""Options of what a sequence-to-sequence recognizer writes, and of how it searches for it."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sft_speech.errors import UserError
from sft_speech.text.codes import language_code

Action = Literal["transcribe", "translate"]
ACTIONS = get_args(Action)


@dataclass(frozen=True)
class Generation:
    """What a recognizer writes. All options but the language are those of models that write token by token.

    Args:
        language: language of the recordings, see :func:`~sft_speech.text.codes.known_code`; None: the checkpoint's own,
            or the one that the model detects in each recording.
        task: "transcribe", or "translate" into English.
        prompt: context for each recording, as if this text came right before it: names, terms, a style.
        num_beams: hypotheses kept from token to token; 1 is greedy.
        temperature_fallback: repeat the search with rising temperature if the text repeats itself or is improbable
            (Radford et al. 2022, section 4.5).
        times: find the times of words, which takes a second pass through the decoder.
    """

    language: str | None = None
    task: Action = "transcribe"
    prompt: str = ""
    num_beams: int = 1
    temperature_fallback: bool = False
    times: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", language_code(self.language) if self.language else None)
        if self.num_beams < 1:
            raise UserError(f"num_beams {self.num_beams}", "the search needs at least one hypothesis", "give 1 or more")
        if self.task not in ACTIONS:
            raise UserError(f"task {self.task}", "there is no such task", f"choose {' or '.join(ACTIONS)}")

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, ``times`` left out."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "times"}
        return {name: value for name, value in given.items() if value != getattr(Generation, name)}

    def summary(self) -> dict[str, object]:
        """Return a description of the search for the figures of an evaluation."""
        return {"search": "greedy" if self.num_beams == 1 else "beam", **self.changed()}


def refuse(generation: Generation) -> None:
    """Refuse any of the options for a recognizer that has none of them.

    Raises:
        UserError: one is set.
    """
    for name, value in generation.changed().items():
        raise UserError(f"--{name} {value}", "only models that write token by token have it", f"leave --{name} out")


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    group = parser.add_argument_group("models that write token by token (Whisper, Moonshine, ...)")
    group.add_argument("--task", choices=ACTIONS, help="translate: into English [transcribe]")
    group.add_argument("--prompt", metavar="TEXT", help="context for each recording: names, terms, a style")
    group.add_argument("--num_beams", type=int, metavar="N", help="hypotheses kept from token to token [1: greedy]")
    group.add_argument(
        "--temperature_fallback", action="store_true", help="search again if a text repeats itself or is improbable"
    )


def generation_of(args: argparse.Namespace) -> Generation:
    """Return the options of a command line.

    Raises:
        UserError: a value is out of range.
    """
    given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(Generation)}
    return Generation(**{name: value for name, value in given.items() if value is not None})
