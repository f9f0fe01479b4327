"""How transcripts are searched for: greedily, or with a language model."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.options.settings import check_values, from_command_line, load_config, option

WITHOUT = "none"  # --lexicon none


@dataclasses.dataclass
class Decoding:
    """A beam search with an n-gram language model; greedy recognition is what happens without one.

    A transcript's score is the natural logarithm of its acoustic probability, + lm_weight * the decimal logarithm of
    its probability in the language model (as KenLM gives it, and as the published weights are meant), + word_score *
    its number of words.
    """

    lm: str = option("", "n-gram language model: an ARPA file (.gz too) or a KenLM binary; without one, greedy")
    lexicon: str | None = option(
        None,
        "what words may be heard: a file with a word on each line, and how it is spelt if that is another way; "
        "'none' for a language model of characters; null: every word of the language model",
    )
    lm_weight: float = option(2.0, "alpha: how much the language model counts; tune-lm finds it", 0.0)
    word_score: float = option(0.0, "beta: added for every word, against too few or too many; tune-lm finds it")
    beam_size: int = option(100, "hypotheses that are kept from frame to frame; the published figures took 1500", 1)

    def __post_init__(self) -> None:
        check_values(self)
        if not self.lm:
            raise UserError("decoding", "it names no language model", "give --lm FILE, or decode greedily")
        for path in (self.lm, self.lexicon):
            if path not in (None, WITHOUT) and not Path(str(path)).is_file():
                raise UserError(str(path), "there is no such file", "check the path")

    def summary(self) -> dict[str, Any]:
        """What the figures of an evaluation say of it."""
        return {"search": "beam", **dataclasses.asdict(self)}


GREEDY = {"search": "greedy"}
HINTS = typing.get_type_hints(Decoding)


def add_decoding_arguments(parser: argparse.ArgumentParser, tuned: bool = False) -> None:
    """``--lm`` and what goes with it.

    Args:
        tuned: leave out the two weights, and the file that has them.
    """
    group = parser.add_argument_group("beam search with a language model [greedy]")
    for field in dataclasses.fields(Decoding):
        if tuned and field.name in ("lm_weight", "word_score"):
            continue
        default = "" if field.default in ("", None) else f" [{field.default}]"
        group.add_argument(
            f"--{field.name}", metavar="V", required=tuned and field.name == "lm", help=field.metadata["help"] + default
        )
    if not tuned:
        group.add_argument("--decoding", metavar="FILE", help="YAML with any of these keys, as tune-lm writes it")


def decoding_of(args: argparse.Namespace) -> Decoding | None:
    """The search that a command line asks for: its file, and what is given beside it; None for the greedy one.

    Raises:
        UserError: weights without a language model, values out of range, files that aren't there.
    """
    given = {key: getattr(args, key, None) for key in HINTS}
    values = {key: from_command_line(key, text, HINTS[key]) for key, text in given.items() if text is not None}
    file = getattr(args, "decoding", None)
    if file is None and not values:
        return None
    return load_config(Decoding, file, values, "--decoding")


def read_decoding(given: Decoding | str | Path | None) -> Decoding | None:
    """A search, or the file that describes it."""
    return given if isinstance(given, Decoding | None) else load_config(Decoding, str(given), {}, "the file")
