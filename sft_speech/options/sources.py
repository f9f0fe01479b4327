"""Options that are lists of tables, each of which names a corpus: ``{source: FOLDER, split: test, ...}``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sft_speech.errors import UserError
from sft_speech.files import expanded
from sft_speech.options.settings import coerce, shown

IN_MEMORY = "in memory"  # source or model of a run that got it as a Python object

# What names a corpus, or a part of one, and their types.
CORPUS: Mapping[str, Any] = {
    "source": str,
    "split": str | None,
    "source_config": str | None,
    "audio_column": str | None,
    "text_column": str | None,
    "speaker_column": str | None,
    "channel": Literal["left", "right", "mix"] | None,
}


def read_tables(
    option: str, given: Sequence[dict[str, Any] | str], more: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the tables of an option, their values converted and without those that are null.

    Args:
        option: its name, for errors.
        given: tables, or text, which is short for ``{split: TEXT}``.
        more: types of keys besides those of :data:`CORPUS`.

    Raises:
        UserError: a key is unknown, a value has another type, or a table is empty or comes twice.
    """
    types, tables = {**CORPUS, **(more or {})}, []
    for item in given:
        table = {"split": item} if isinstance(item, str) else item
        read = {}
        for key, value in table.items():
            if key not in types:
                near = difflib.get_close_matches(key, types, 1)
                do = f"did you mean {near[0]}?" if near else f"use {', '.join(types)}"
                raise UserError(f"{option}: {shown(key)}", "a table has no such key", do)
            if value is not None:
                read[key] = coerce(f"{option}: {key}", value, types[key])
        if "source" in read:
            read["source"] = expanded(read["source"], f"{option}: source")
        if not any(read.get(key) for key in ("source", "split")):
            raise UserError(f"{option}: {shown(item)}", "it names no corpus", "give a source, a split, or both")
        if read in tables:
            raise UserError(f"{option}: {shown(item)}", "it is listed twice", "remove one of the two")
        tables.append(read)
    return tables


def columns_of(table: Mapping[str, Any], roles: Sequence[str] = ("audio", "text", "speaker")) -> dict[str, str]:
    """Return the columns that a table names, by role."""
    return {role: table[f"{role}_column"] for role in roles if table.get(f"{role}_column")}
