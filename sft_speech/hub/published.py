"""Removal of local paths and tokens from what is published about a run; names of data and models stay."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from sft_speech.options.settings import is_table, parse_yaml
from sft_speech.redact import redact

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TABLE = (".csv", ".tsv", ".jsonl", ".yaml", ".yml", ".arpa", ".bin")


def on_hub(name: str) -> bool:
    """Return whether a name is an id on the Hub, as far as its form and this disk can tell."""
    return bool(_HUB_ID.fullmatch(name)) and not name.endswith(_TABLE) and not os.path.exists(name)


def published(value: Any, on_disk: bool = False) -> Any:
    """Return a value with each path cut to its last part, and tokens hidden.

    Args:
        on_disk: the value, or one in it, is known to be a path, whatever it looks like.
    """
    if isinstance(value, dict):
        return {key: published(one, on_disk) for key, one in value.items()}
    if isinstance(value, list):
        return [published(one, on_disk) for one in value]
    if not isinstance(value, str):
        return value
    is_path = "/" in value or "\\" in value or value.startswith("~")
    if is_path and "://" not in value and (on_disk or not on_hub(value)):
        value = PureWindowsPath(value).name or Path(value).resolve().name  # PureWindowsPath splits at both slashes
    return redact(value)


def published_command(line: list[str], on_disk: frozenset[str]) -> list[str]:
    """Return a command line without paths.

    Args:
        on_disk: keys whose values are paths.
    """
    shown, key = [], ""
    for word in line:
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            shown.append(f"{name}={published_argument(value, name.removeprefix('--') in on_disk)}")
        else:
            shown.append(published_argument(word, key in on_disk))
            key = word.removeprefix("--") if word.startswith("--") else ""
    return shown


def published_argument(text: str, on_disk: bool) -> str:
    """Return an argument without paths; that of an option of tables, such as ``[{source: a/b}]``, stays one."""
    if text.startswith(("[", "{")):
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            value = parse_yaml(text)[0]
            if any(is_table(one) for one in (value if isinstance(value, list) else [value])):
                public = published(value, on_disk)
                return yaml.safe_dump(public, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    return str(published(text, on_disk))
