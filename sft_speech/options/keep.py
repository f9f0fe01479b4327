"""Options against forgetting: splits of other data to watch, and interpolation of the weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.options.sources import IN_MEMORY, columns_of, read_tables

if TYPE_CHECKING:
    from sft_speech.options.config import FinetuneConfig

KEEP, SELECT = "keep_", "select_"  # how the roles of these corpora begin


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the rows of a role are read from.

    Args:
        config: configuration of a dataset on the Hub.
        columns: names of columns by role.
        channel: channel of recordings of several.
        language: language of all its rows; None: their own, or that of the run.
    """

    source: str
    split: str | None
    config: str | None
    columns: Mapping[str, str | None]
    channel: Any
    language: str | None = None

    def without(self, role: str) -> Place:
        """Return the same place, where no column of this role is asked for."""
        return dataclasses.replace(self, columns={one: name for one, name in self.columns.items() if one != role})


def check_keep(config: FinetuneConfig) -> None:
    """Check the options against forgetting.

    Raises:
        UserError: a table of ``keep_splits`` is wrong, or its utterances would be trained on; or interpolation has no
            start that means anything, or nothing to choose by.
    """
    config.keep_splits = list(read_tables("keep_splits", config.keep_splits, {"select": str | None}))
    if config.keep_splits and config.from_scratch:
        do = "remove one of them"
        raise UserError("keep_splits and from_scratch", "random weights have nothing to forget", do)
    for place in keep_places(config).values():
        if config.train_split is None and place.source == config.source:
            raise UserError(
                "keep_splits without train_split", "the utterances to keep would be trained on", "set train_split"
            )
    share = config.interpolate
    if share is None:
        if any("select" in table for table in tables_of(config)):
            raise UserError("keep_splits: select", "nothing is selected without it", "set `interpolate: auto`")
        return
    if config.from_scratch:
        why = "the weights at the start are random"
        raise UserError("interpolate and from_scratch", why, "remove one of them")
    if getattr(config, "adapter", None):
        why = "the run starts from the base and the adapter together"
        do = "merge them first, and start from the result: sft-speech merge ADAPTER -o DIR"
        raise UserError("interpolate and adapter", why, do)
    if share == "auto" and "eval" not in config.corpora:
        raise UserError(
            "interpolate auto without eval_split", "the share is chosen on it", "set eval_split, or a share from 0 to 1"
        )
    if share != "auto" and any("select" in table for table in tables_of(config)):
        raise UserError("keep_splits: select", f"the share is given, {share}", "set `interpolate: auto`")
    if share != "auto" and not 0 <= share <= 1:
        raise UserError(f"interpolate {share:g}", "it is a share of the trained weights", "use auto, or 0 to 1")


def tables_of(config: FinetuneConfig) -> list[dict[str, Any]]:
    """Return the tables of ``keep_splits``, once they are checked."""
    return [table for table in config.keep_splits if isinstance(table, dict)]


def keep_places(config: FinetuneConfig) -> dict[str, Place]:
    """Return the corpora of ``keep_splits`` by role: ``keep_CORPUS_SPLIT``, and ``select_CORPUS_SPLIT`` for the splits
    to choose the interpolation by.
    """
    places: dict[str, Place] = {}
    for table in tables_of(config):
        if "source" in table:  # another corpus, with other names of columns; labels and languages are those of the run
            named = {"audio", "text", "speaker"}
            columns = {role: name for role, name in config.columns.items() if role not in named or name is None}
            own, source = table.get("source_config"), table["source"]
        else:
            columns, source = dict(config.columns), config.held_out_source
            own = table.get("source_config", config.source_config)
        split, channel = table.get("split"), table.get("channel", config.channel)
        place = Place(source, split, own, columns | columns_of(table), channel)
        name = unused(name_of(place), [role.removeprefix(KEEP) for role in (*config.own_corpora, *places)])
        places[KEEP + name] = place
        if "select" in table:
            chosen_by = dataclasses.replace(place, split=table["select"])
            if chosen_by not in [one for role, one in places.items() if role.startswith(SELECT)]:
                places[unused(SELECT + name_of(chosen_by), places)] = chosen_by
    return places


def name_of(place: Place) -> str:
    """Return a name of a corpus and its split that can be that of a file."""
    path = PurePath(place.source.rstrip("/"))
    corpus = path.stem if re.fullmatch(r"\.[A-Za-z]\w{1,5}", path.suffix) else path.name
    named = (corpus, place.config) if place.source != IN_MEMORY else ()
    parts = filter(None, (*named, place.split))
    return re.sub(r"[^\w.+,=-]+", "_", "_".join(parts)).strip("_")


def unused(name: str, taken: Iterable[str]) -> str:
    """Return a name, with a number after it if it is taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found
