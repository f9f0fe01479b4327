"""Settings as dataclasses: read from YAML and the command line, converted to their types, checked against ranges."""

from __future__ import annotations

import argparse
import dataclasses
import math
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

import yaml

from sft_speech.errors import UserError
from sft_speech.files import expanded, write_whole
from sft_speech.options.names import advice, current
from sft_speech.options.parser import OUTPUT
from sft_speech.redact import redact

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

WANTED = {bool: "true or false", int: "a whole number", float: "a number", dict: "a table of `key: value`"}
DEEPEST = 20  # nested brackets in a settings file
LONGEST = 1 << 16  # characters of a settings file; a run.yaml has three thousand


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    by_hand: bool = False,
    path: bool = False,
) -> Any:
    """Return a field of a configuration: its default, one sentence of help, and the range of its values, ends included.

    Args:
        by_hand: only the command line can switch it on, since a YAML may come from somebody else.
        path: it may be a path, in which ``~`` is the home directory.
    """
    factory = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    metadata = {"help": help, "low": low, "high": high, "by_hand": by_hand, "path": path}
    return dataclasses.field(**factory, metadata=metadata)


def check_values(config: DataclassInstance) -> None:
    """Convert every value to the type of its field.

    Raises:
        UserError: a value has another type, is out of range, or holds a token (settings are saved to files).
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = coerce(field.name, getattr(config, field.name), hints[field.name])
        if isinstance(value, str | list) and redact(str(value)) != str(value):
            do = "remove it, and set the variable HF_TOKEN or call `hf auth login`"
            raise UserError(field.name, "it holds a token or a password, and settings are saved to files", do)
        if field.metadata.get("path") and isinstance(value, str):
            value = expanded(value, field.name)
        low, high = field.metadata.get("low"), field.metadata.get("high")
        number = None if isinstance(value, str) else value  # 'auto' is in no range
        if number is not None and ((low is not None and number < low) or (high is not None and number > high)):
            bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{field.name}: {value}", "it is out of range", f"use a value {bounds}")
        setattr(config, field.name, value)


def coerce(key: str, value: Any, hint: Any) -> Any:
    """Convert a value to the type of its field; YAML, for example, reads the number `1e-4` as text."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if type(None) in arguments and (value is None or value == ""):
            return None
        choices = [a for a in arguments if a is not type(None)]
        words = [word for one in choices[1:] for word in typing.get_args(one)]  # those of `float | Literal["auto"]`
        if isinstance(value, str) and (value in words or str in choices):  # or a text instead of a table
            return value
        try:
            return coerce(key, value, choices[0])
        except UserError as error:
            if not words or not isinstance(value, str):
                raise
            raise wrong_type(key, value, f"{error.why.removeprefix('it must be ')} or {', '.join(words)}") from None
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise UserError(f"{key}: {shown(value)}", "there is no such choice", f"use one of {', '.join(arguments)}")
        return value
    if origin is list:
        items = value
        if isinstance(value, str):  # the commas of `speaker=a,b` belong to one split
            items = [value] if "=" in value else [item.strip() for item in value.split(",") if item.strip()]
        kinds = [typing.get_origin(kind) for kind in (arguments[0], *typing.get_args(arguments[0]))]
        if isinstance(value, dict) and dict in kinds:  # the only one
            items = [value]
        if not isinstance(items, list):
            raise wrong_type(key, value, "a list")
        return [coerce(key, item, arguments[0]) for item in items]
    if origin is dict and isinstance(value, dict):
        return {coerce(key, name, arguments[0]): item for name, item in value.items()}
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
    raise wrong_type(key, value, WANTED.get(origin or hint, "text"))


def shown(value: object) -> str:
    """Return the beginning of a value, for an error message; a few YAML aliases can expand to billions of items."""
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) < 200 else f"{text[:200]}..."


def wrong_type(key: str, value: object, wanted: str) -> UserError:
    do = (
        "correct it" if ": " in key else f"correct it in the YAML or pass --{key} VALUE"
    )  # a key of a table has no flag
    return UserError(f"{key}: {shown(value)}", f"it must be {wanted}", do)


def load_config(cls: type[C], file: str | None, overrides: dict[str, Any], flag: str = "--config") -> C:
    """Return the configuration in a YAML file, with overrides.

    Args:
        flag: the option that named the file, for errors.

    Raises:
        UserError: the file is missing or not YAML; a key is unknown, has a wrong type, is out of range,
            contradicts another one, or can only be switched on from the command line.
    """
    hints = typing.get_type_hints(cls)
    texts = [key for key, hint in hints.items() if hint is str or str in typing.get_args(hint)]
    values = current(read_yaml(file, flag, texts), f"{flag} {file}") if file is not None else {}
    overrides = current(overrides, "options")
    for field in dataclasses.fields(cls):
        if field.metadata["by_hand"] and values.get(field.name) not in (None, False) and field.name not in overrides:
            why = "only the command line can switch this on, since a file may come from somebody else"
            raise UserError(f"{flag} {file}: {field.name}", why, f"if you want it, add --{field.name}")
    values |= overrides
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            name = repr(shown(key)) if isinstance(key, str) else shown(key)
            raise UserError(f"unknown key {name}", "there is no such option", advice(shown(key), known))
    return cls(**values)


def read_yaml(file: str, flag: str = "--config", texts: Collection[str] = ()) -> dict[str, Any]:
    """Return the ``key: value`` table of a YAML file.

    Args:
        texts: keys whose values are text: a bare ``no``, which is Norwegian, stays what it is.

    Raises:
        UserError: the file cannot be read, is not YAML or not a table, or sets a key twice.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            text = lines.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        values, tree = parse_yaml(text)
    except OSError as error:
        raise UserError(
            f"{flag} {file}", f"it cannot be read ({error.strerror})", "the presets are in configs/"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = (
            f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else (str(error).splitlines() or [""])[0]
        )
        raise UserError(f"{flag} {file}", f"it is not valid YAML ({where})", "correct it") from None
    if tree is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{flag} {file}", "it is not a table of `key: value` lines", "see configs/ for examples")
    for key, count in Counter(key.value for key, _ in tree.value if isinstance(key, yaml.ScalarNode)).items():
        if count > 1:  # YAML would silently take the last one
            raise UserError(f"{flag} {file}: {key}", "it is set twice", "keep one of the lines")
    bare = {key.value: value.value for key, value in tree.value if isinstance(value, yaml.ScalarNode)}
    return {key: bare[key] if key in texts and isinstance(value, bool) else value for key, value in values.items()}


class _PlainLoader(yaml.SafeLoader):
    """Loads numbers, text, lists and tables, without features that make small files slow: deeply nested brackets take
    quadratic time, and a few lines of merged tables (``<<``) expand to billions of entries.
    """

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level == DEEPEST:
            raise yaml.scanner.ScannerError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                problem="merged tables are not supported", problem_mark=node.start_mark
            )


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Parse plain YAML. Return its value and its syntax tree.

    Raises:
        yaml.YAMLError: it is not YAML, or it requests a Python object.
        ValueError: it contains a number or a date that Python cannot represent.
        RecursionError: it is nested too deeply.
    """
    loader = _PlainLoader(text)
    try:
        tree = loader.get_single_node()
        return None if tree is None else loader.construct_document(tree), tree
    except (TypeError, AttributeError, LookupError, OverflowError) as error:  # a value does not fit its tag
        raise ValueError(f"a value that cannot be read: {error}") from error
    finally:
        loader.dispose()


def add_config_arguments(
    parser: argparse.ArgumentParser, *classes: type[DataclassInstance], without: Collection[str] = ()
) -> None:
    """Add ``--config FILE`` and one ``--key VALUE`` for every field of the classes; the first one explains it."""
    parser.add_argument("--config", metavar="FILE", help="YAML with any of the keys below")
    group = parser.add_argument_group("keys, which override the YAML")
    found = {field.name: field for cls in reversed(classes) for field in dataclasses.fields(cls)}
    for name in dict.fromkeys(field.name for cls in classes for field in dataclasses.fields(cls)):
        field = found[name]
        if name in without:
            continue
        default = field.default if field.default is not dataclasses.MISSING else []
        by_hand = "; command line only" if field.metadata["by_hand"] else ""
        help = field.metadata["help"].replace("%", "%%") + f"{by_hand} [{yaml_scalar(default)}]"
        flags = OUTPUT if name == "output_dir" else (f"--{name}",)
        group.add_argument(
            *flags, dest=name, nargs="?", const="true", default=argparse.SUPPRESS, metavar="V", help=help
        )


def add_pickle_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow_pickle``, for the verbs that load models."""
    parser.add_argument("--allow_pickle", action="store_true", help="read pickled weights in the given directories")


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, for the verbs that use models."""
    computes = "what the model computes in [auto: bfloat16 if it is faster on the device]"
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help=computes)


def config_from_arguments(cls: type[C], arguments: argparse.Namespace) -> C:
    """Return the configuration for a parsed command line."""
    return load_config(cls, vars(arguments).get("config"), overrides_of(cls, arguments))


def overrides_of(cls: type[DataclassInstance], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the fields of a class that a parsed command line sets."""
    given, hints = vars(arguments), typing.get_type_hints(cls)
    return {key: from_command_line(key, given[key], hint) for key, hint in hints.items() if key in given}


def from_command_line(key: str, text: str, hint: Any) -> Any:
    """Return the value of a command-line argument: text as it is, anything else parsed as YAML.

    ``[150:]`` for a list of splits is one of them, a range of rows, and null is no split.
    """
    if text == "" or (str in (hint, *typing.get_args(hint)) and typing.get_origin(hint) is not list):
        return None if text == "null" else text
    try:
        value = parse_yaml(text)[0]
    except (yaml.YAMLError, ValueError, RecursionError):
        raise wrong_type(key, text, "valid YAML") from None
    if typing.get_origin(hint) is list and str in (*typing.get_args(hint), *typing.get_args(typing.get_args(hint)[0])):
        tables = typing.get_args(hint)[0] is not str
        fits = isinstance(value, list) and all(isinstance(one, str) or (tables and is_table(one)) for one in value)
        return [] if value is None else value if fits or (tables and is_table(value)) else text
    return value


def is_table(value: object) -> bool:
    """Return whether a value is a table with keys of text."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def yaml_scalar(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0].strip()


def save_config(config: DataclassInstance, path: Path) -> None:
    """Write every key, so that ``--config`` with this file repeats the run even if defaults change."""
    write_whole(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True))
