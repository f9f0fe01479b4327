"""Settings as dataclasses: read from YAML and the command line, brought to their types and ranges; nothing heavy."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from sft_speech.errors import UserError
from sft_speech.files import write_whole
from sft_speech.redact import redact

C = TypeVar("C")

DEEPEST = 20  # brackets within brackets in settings
LONGEST = 1 << 16  # characters of a file of settings; a run's has three thousand


def option(default: Any, help: str, low: float | None = None, high: float | None = None, by_hand: bool = False) -> Any:
    """A key of the configuration: its default, one sentence of help and the range of its values (both ends allowed).

    Args:
        by_hand: a YAML can't switch it on unless the command line does: what a file from elsewhere must not decide.
    """
    factory = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return dataclasses.field(**factory, metadata={"help": help, "low": low, "high": high, "by_hand": by_hand})


def check_values(config: Any) -> None:
    """Brings every value to the type of its field.

    Raises:
        UserError: a value of another type or out of its range, or one that holds a token: settings are written down.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = coerce(field.name, getattr(config, field.name), hints[field.name])
        if isinstance(value, str | list) and redact(str(value)) != str(value):
            do = "leave it out there, and set HF_TOKEN or call `hf auth login`"
            raise UserError(field.name, "it holds a token or a password, and settings are written down", do)
        low, high = field.metadata.get("low"), field.metadata.get("high")
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{field.name}: {value}", "out of range", f"take a value {bounds}")
        setattr(config, field.name, value)


def coerce(key: str, value: Any, hint: Any) -> Any:
    """One value as its type; YAML reads `1e-4` as text, which is a number all the same."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or value == "":
            return None
        return coerce(key, value, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise UserError(f"{key}: {shown(value)}", "not one of its values", f"take one of {', '.join(arguments)}")
        return value
    if origin is list:
        items = value
        if isinstance(value, str):  # the commas of `speaker=a,b` belong to one split
            items = [value] if "=" in value else [item.strip() for item in value.split(",") if item.strip()]
        if not isinstance(items, list):
            raise wrong_type(key, value, "a list")
        return [coerce(key, item, arguments[0]) for item in items]
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str | int | float):  # YAML's `true`, `42` or `1.5` may be meant as a name
        return str(value).lower() if isinstance(value, bool) else str(value)
    if hint in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise wrong_type(key, value, "a number") from None
        if not math.isfinite(number):
            raise wrong_type(key, value, "a finite number")
        if hint is float:
            return number
        if number == int(number):
            return int(number)
    raise wrong_type(key, value, {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "text"))


def shown(value: Any) -> str:
    """A value in an error: the beginning of it, for with a few aliases YAML writes lists of billions."""
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)
    except ValueError:  # Python writes no integers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) < 200 else f"{text[:200]}..."


def wrong_type(key: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{key}: {shown(value)}", f"it must be {wanted}", f"correct it in the YAML or pass --{key} VALUE")


def load_config(cls: type[C], file: str | None, overrides: dict[str, Any], flag: str = "--config") -> C:
    """Values of a YAML file under those of the command line.

    Args:
        flag: what the file was given by.

    Raises:
        UserError: no such file, no YAML, an unknown key, a wrong type, a value out of range, contradictory keys; a key
            that only the command line may switch on.
    """
    values = read_yaml(file, flag) if file is not None else {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.metadata["by_hand"] and values.get(field.name) not in (None, False) and field.name not in overrides:
            why = "a file may come from elsewhere, and must not decide this"
            raise UserError(f"{flag} {file}: {field.name}", why, f"if you want it, add --{field.name}")
    values |= overrides
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(shown(key), known, 1)
            do = f"did you mean {near[0]}?" if near else "`--help` lists the keys"
            name = repr(shown(key)) if isinstance(key, str) else shown(key)
            raise UserError(f"unknown key {name}", "no such setting exists", do)
    return cls(**values)


def read_yaml(file: str, flag: str = "--config") -> dict[str, Any]:
    """The table of ``key: value`` lines in a file.

    Raises:
        UserError: it can't be read, is no YAML or no table, or names a key twice.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            text = lines.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        values, tree = parse_yaml(text)
    except OSError as error:
        raise UserError(
            f"{flag} {file}", f"it can't be read ({error.strerror})", "the presets are in configs/"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = (
            f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else (str(error).splitlines() or [""])[0]
        )
        raise UserError(f"{flag} {file}", f"it is no YAML ({where})", "correct it") from None
    if tree is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{flag} {file}", "it is no table of `key: value` lines", "see configs/ for examples")
    for key, count in Counter(key.value for key, _ in tree.value if isinstance(key, yaml.ScalarNode)).items():
        if count > 1:  # YAML would take the last one in silence
            raise UserError(f"{flag} {file}: {key}", "it is set twice", "keep one of the lines")
    return values


class _PlainLoader(yaml.SafeLoader):
    """Numbers, text, lists and tables, without what takes long: for brackets in brackets its time is their square, and
    with merged tables (``<<``) a few lines make billions of entries.
    """

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level == DEEPEST:
            raise yaml.scanner.ScannerError(problem="nested too deep", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(problem="tables aren't merged here", problem_mark=node.start_mark)


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """What a text says in plain YAML, and as it is written.

    Raises:
        yaml.YAMLError: it is no YAML, or wants an object made.
        ValueError: a number or a date that Python can't make.
        RecursionError: nested too deep.
    """
    loader = _PlainLoader(text)
    try:
        tree = loader.get_single_node()
        return None if tree is None else loader.construct_document(tree), tree
    except (TypeError, AttributeError, LookupError, OverflowError) as error:  # of values unlike their own tags
        raise ValueError(f"a value that can't be read: {error}") from error
    finally:
        loader.dispose()


def add_config_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    """``--config FILE`` and one ``--key VALUE`` for every field."""
    parser.add_argument("--config", metavar="FILE", help="YAML with any of the keys below")
    group = parser.add_argument_group("keys, over those of the YAML")
    for field in dataclasses.fields(cls):
        default = field.default if field.default is not dataclasses.MISSING else []
        by_hand = "; here only, a YAML can't" if field.metadata["by_hand"] else ""
        help = field.metadata["help"].replace("%", "%%") + f"{by_hand} [{yaml_scalar(default)}]"
        group.add_argument(
            f"--{field.name}", nargs="?", const="true", default=argparse.SUPPRESS, metavar="V", help=help
        )


def add_pickle_argument(parser: argparse.ArgumentParser) -> None:
    """``--allow_pickle`` of the verbs that load models."""
    parser.add_argument("--allow_pickle", action="store_true", help="read pickled weights of directories named here")


def config_from_arguments(cls: type[C], arguments: argparse.Namespace) -> C:
    """The configuration that a parsed command line asks for."""
    given = vars(arguments)
    overrides = {
        key: from_command_line(key, given[key], hint)
        for key, hint in typing.get_type_hints(cls).items()
        if key in given
    }
    return load_config(cls, given.get("config"), overrides)


def from_command_line(key: str, text: str, hint: Any) -> Any:
    """What a word of the command line means: names as they stand, all else as YAML would read it."""
    if text == "" or (str in (hint, *typing.get_args(hint)) and typing.get_origin(hint) is not list):
        return None if text == "null" else text
    try:
        return parse_yaml(text)[0]
    except (yaml.YAMLError, ValueError, RecursionError):
        raise wrong_type(key, text, "readable as YAML") from None


def yaml_scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0].strip()


def save_config(config: Any, path: Path) -> None:
    """Writes every key, so that ``--config`` with this file repeats the run whatever later defaults are."""
    write_whole(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True))
