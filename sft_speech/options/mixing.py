"""The option ``sources``: several corpora to train on, each with its share of an epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.options.keep import Place, name_of, unused
from sft_speech.options.sources import IN_MEMORY, columns_of, read_tables
from sft_speech.text.codes import language_code

if TYPE_CHECKING:
    from sft_speech.options.config import FinetuneConfig

EVAL = "eval_"  # how the roles of the evaluation splits of `sources` begin
KEYS: dict[str, Any] = {
    "weight": float | None,
    "temperature": float | None,
    "max_hours": float | None,
    "eval_split": str | None,
}
# Further keys: the option that the task must have.
_OF_TASK = {key: key for key in ("label_column", "language_column", "weight_column")} | {"language": "language_column"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the corpora that a run is trained on.

    Args:
        name: its name in tables, figures and ids.
        place: where its rows are read from.
        weight: its share of an epoch before normalization; None: by hours.
        temperature: the share grows with hours^(1 / temperature); None: with the hours.
        max_hours: hours of a random subset that takes its place; None for all of it.
        eval_split: its split to evaluate on.
    """

    name: str
    place: Place
    weight: float | None = None
    temperature: float | None = None
    max_hours: float | None = None
    eval_split: str | None = None


def parts_of(config: FinetuneConfig) -> list[Part]:
    """Return the corpora of ``sources``, once the option is checked; [] without it."""
    alone = [_place(config, table) for table in config.sources]
    short = [name_of(dataclasses.replace(place, split=_only_name(place))) for place in alone]
    parts: list[Part] = []
    for table, place, name in zip(config.sources, alone, short, strict=True):
        name = name if short.count(name) == 1 and name else name_of(place)
        numbers = {key: table.get(key) for key in KEYS}
        parts.append(Part(unused(name or "source", [part.name for part in parts]), place, **numbers))
    return parts


def _only_name(place: Place) -> str | None:
    """Return the split if nothing else names the corpus: rows in memory."""
    return place.split if place.source == IN_MEMORY else None


def _place(config: FinetuneConfig, table: dict[str, Any]) -> Place:
    named = columns_of(table, ("audio", "text", "speaker", "label", "language", "weight"))
    columns = {**config.columns, **named}
    if "language" in table:
        columns.pop("language", None)
    channel, language = table.get("channel", config.channel), table.get("language")
    return Place(table["source"], table.get("split"), table.get("source_config"), columns, channel, language)


def eval_places(config: FinetuneConfig) -> dict[str, Place]:
    """Return the evaluation splits of ``sources`` by role: ``eval_NAME``."""
    return {
        f"{EVAL}{part.name}": dataclasses.replace(part.place, split=part.eval_split)
        for part in parts_of(config)
        if part.eval_split is not None
    }


def common_source(tables: Iterable[dict[str, Any]]) -> str:
    """Return the corpus that all tables are splits of; "" if there are several."""
    sources = {table["source"] for table in tables}
    return sources.pop() if len(sources) == 1 else ""


def check_sources(config: FinetuneConfig) -> None:
    """Check the option ``sources``.

    Raises:
        UserError: it contradicts another option, a table is wrong, or the weights make no shares.
    """
    if not config.sources:
        return
    own = [key for key, needed in _OF_TASK.items() if hasattr(config, needed)]
    config.sources = read_tables("sources", config.sources, KEYS | dict.fromkeys(own, str | None))
    for key in ("source", "train_split"):
        if getattr(config, key):
            do = f"remove {key}" if key == "source" else "write `split:` into the tables"
            raise UserError(f"sources and {key}", "both name what is trained on", do)
    for table in config.sources:
        if "source" not in table:
            raise UserError(f"sources: {table}", "it names no source", "add `source:`, a folder, a file or a Hub id")
        if "language" in table:
            table["language"] = language_code(table["language"])
    _check_places(config)
    _check_languages(config)
    _check_shares(config.sources)
    _check_stream(config)


def _check_places(config: FinetuneConfig) -> None:
    seen = set()
    for table in config.sources:
        source = str(Path(table["source"]).resolve()) if Path(table["source"]).exists() else table["source"]
        place = (source, table.get("split"), table.get("source_config"))
        if place in seen:
            shown = " ".join(filter(None, (table["source"], table.get("split"))))
            raise UserError(f"sources: {shown}", "it is listed twice", "list it once, with a larger weight")
        seen.add(place)
        held_out = config.eval_source is None and common_source(config.sources) and _held_out(config)
        if table.get("split") is None and (table.get("eval_split") or held_out):
            why = "the evaluation utterances would be trained on"
            raise UserError(f"sources: {table['source']} without split", why, "add `split:`")
    if _held_out(config) and not config.held_out_source:
        do = "set eval_source, or write `eval_split:` into the tables of sources"
        raise UserError(_held_out(config), "there are several sources, and it does not say of which", do)


def _held_out(config: FinetuneConfig) -> str:
    """Return the option that names a split without its corpus; "" if there is none."""
    bare = any(isinstance(one, str) or "source" not in one for one in config.keep_splits)
    given = {"eval_split": config.eval_split, "test_splits": config.test_splits, "keep_splits": bare}
    return next((key for key, value in given.items() if value), "")


def _check_languages(config: FinetuneConfig) -> None:
    own = [("language" in table or "language_column" in table) for table in config.sources]
    if not any(own):
        return
    if config.language:
        raise UserError("language and sources: language", "each source has its own", "remove one of them")
    if not all(own) and not getattr(config, "language_column", None):
        missing = config.sources[own.index(False)]["source"]
        raise UserError(f"sources: {missing} without language", "others have one", "add `language:` to all tables")


def _check_shares(tables: list[dict[str, Any]]) -> None:
    weights, temperatures = ([table.get(key) for table in tables] for key in ("weight", "temperature"))
    for table in tables:
        for key, least in (("weight", "0 or more"), ("temperature", "above 0"), ("max_hours", "above 0")):
            value = table.get(key)
            if value is not None and (value < 0 or (value == 0 and key != "weight")):
                why = f"it must be {least}"
                raise UserError(f"sources: {table['source']}: {key} {value:g}", why, f"correct it, or remove {key}")
    known = [weight for weight in weights if weight is not None]
    if known and any(one is not None for one in temperatures):
        why = "weights are shares, and a temperature makes shares of the hours"
        raise UserError("sources: weight and temperature", why, "keep one of them")
    if known and len(known) < len(tables):
        missing = tables[weights.index(None)]["source"]
        raise UserError(f"sources: {missing} without weight", "others have one", "give all of them a weight, or none")
    if known and not sum(known):
        raise UserError("sources: weight", "the weights sum to nothing", "make one of them positive")
    if 0 in known:
        empty = tables[weights.index(0)]["source"]
        raise UserError(f"sources: {empty}: weight 0", "nothing of it would be trained on", "remove its table")
    if len({one for one in temperatures if one is not None}) > 1:
        raise UserError("sources: temperature", "there is one for all sources", "write the same value")


def _check_stream(config: FinetuneConfig) -> None:
    if not config.streamed:
        return
    for table in config.sources:
        for key in ("max_hours", "temperature"):
            if key in table:
                why = "the hours of a stream are not known before it is read"
                raise UserError(f"sources: {key} with streaming", why, f"remove {key}, and set weights")
    if len(config.sources) > 1 and "weight" not in config.sources[0]:
        why = "the hours of streams are not known, and shares cannot follow them"
        raise UserError("sources without weight, with streaming", why, "give each table a weight")
