"""Options of the search for hypotheses: greedy, or with a language model."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.options.settings import check_values, from_command_line, load_config, option

WITHOUT = "none"  # --lexicon none


@dataclasses.dataclass
class Decoding:
    """A beam search with an n-gram language model; without one, recognition is greedy.

    The score of a hypothesis is the natural logarithm of its acoustic probability, + lm_weight * the decimal logarithm
    of its probability in the language model (KenLM's unit, which published weights refer to), + word_score * its number
    of words.
    """

    lm: str = option(
        "", "n-gram language model: an ARPA file (.gz too) or a KenLM binary; greedy without one", path=True
    )
    lexicon: str | None = option(
        None,
        "words that may be recognized: a file with a word per line, and its spelling if it is special; "
        "'none' for a language model of characters; null: every word of the language model",
        path=True,
    )
    lm_weight: float = option(2.0, "alpha: weight of the language model; tune-lm finds it", 0.0)
    word_score: float = option(0.0, "beta: added for every word; tune-lm finds it")
    beam_size: int = option(100, "hypotheses kept from frame to frame; published figures used 1500", 1)

    def __post_init__(self) -> None:
        check_values(self)
        if not self.lm:
            raise UserError("decoding", "it has no language model", "give --lm FILE, or decode greedily")
        for path in (self.lm, self.lexicon):
            if path not in (None, WITHOUT) and not Path(str(path)).is_file():
                raise UserError(str(path), "there is no such file", "check the path")

    def summary(self) -> dict[str, object]:
        """Return a description of the search for the figures of an evaluation."""
        return {"search": "beam", **dataclasses.asdict(self)}


GREEDY: dict[str, object] = {"search": "greedy"}
HINTS = typing.get_type_hints(Decoding)


def add_decoding_arguments(parser: argparse.ArgumentParser, tuned: bool = False) -> None:
    """Add ``--lm`` and the other options of the search.

    Args:
        tuned: leave out the two weights, and the file that holds them.
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
        group.add_argument("--decoding", metavar="FILE", help="YAML file with any of these keys, as written by tune-lm")


def decoding_of(args: argparse.Namespace) -> Decoding | None:
    """Return the search of a command line, from ``--decoding`` and the options that override it; None is greedy.

    Raises:
        UserError: weights without a language model, values out of range, missing files.
    """
    given = {key: getattr(args, key, None) for key in HINTS}
    values = {key: from_command_line(key, text, HINTS[key]) for key, text in given.items() if text is not None}
    file = getattr(args, "decoding", None)
    if file is None and not values:
        return None
    return load_config(Decoding, file, values, "--decoding")


def read_decoding(given: Decoding | str | Path | None) -> Decoding | None:
    """Return a search, read from a YAML file if a path is given; None is greedy."""
    return given if isinstance(given, Decoding | None) else load_config(Decoding, str(given), {}, "the file")
