"""Command lines: one-line errors, renamed flags, and flags that several verbs share."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from typing import NoReturn

from sft_speech.errors import printable
from sft_speech.options.names import RENAMED, advice, warn_renamed
from sft_speech.redact import redact

# Arguments of Python: flags of the verbs, the first that a verb has.
_FLAGS = {"split": ("train_split", "split"), "config": ("source_config",)}
OUTPUT = ("-o", "--output", "--output_dir")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line without tokens, and which accepts renamed flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(redact(f"{self.prog}: {message}")) + "\n")

    def parse(self, words: Sequence[str], namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse a command line, in which options and positional arguments may be mixed.

        Raises:
            SystemExit: a flag or argument is unknown, missing or wrong.
        """
        args, unknown = self.parse_known_intermixed_args(_at_home(self._checked(words)), namespace)
        if unknown:
            self._reject(unknown[0])
        return args

    def in_flags(self, text: str) -> str:
        """Return a message with the arguments of :func:`~sft_speech.corpora.load_corpus` as flags of this parser."""

        def flag(found: re.Match[str]) -> str:
            names = [f"--{name}" for name in _FLAGS[found[1]]]
            known = next((name for name in names if name in self._option_string_actions), None)
            return found[0] if known is None else f"{known} {shlex.quote(found[2])}"

        return re.sub(r"(?<![\w-])(split|config)=([^\s,;]+)", flag, text)

    def _checked(self, words: Sequence[str]) -> list[str]:
        """Return the words with renamed flags replaced; exit with an error that names an unknown flag.

        argparse would instead report a misspelled required flag as missing.
        """
        end = words.index("--") if "--" in words else len(words)
        found = list(words)
        for position, word in enumerate(words[:end]):
            flag, equals, value = word.partition("=")
            if not flag.startswith("--") or " " in flag or flag in self._option_string_actions:
                continue
            new = f"--{RENAMED.get(flag[2:], '')}"
            if new not in self._option_string_actions:
                self._reject(flag)
            warn_renamed("command line", flag, new)
            found[position] = f"{new}{equals}{value}"
        return found

    def _reject(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}; --help lists the options")
        flag = word.partition("=")[0]
        known = [name[2:] for name in self._option_string_actions if name.startswith("--")]
        self.error(f"no option {flag}; {advice(flag.lstrip('-'), known, prefix='--')}")


def _at_home(words: Sequence[str]) -> list[str]:
    """Return words in which a leading ``~/`` is the home directory: shells leave that of ``--output=~/x`` as it is."""
    return [
        re.sub(r"^(--\w+=|)(~(?:/.*)?)$", lambda found: found[1] + os.path.expanduser(found[2]), one) for one in words
    ]


def add_output_argument(
    parser: argparse.ArgumentParser,
    help: str,
    *,
    metavar: str = "DIR",
    folder: bool = True,
    required: bool = False,
    default: str | None = None,
) -> None:
    """Add ``-o``, alias ``--output``: where a verb writes.

    Args:
        folder: the output may be a directory; ``--output_dir`` is accepted too.
    """
    flags = OUTPUT if folder else OUTPUT[:2]
    parser.add_argument(*flags, dest="output", metavar=metavar, help=help, required=required, default=default)
