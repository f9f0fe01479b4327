"""The corpora of a run in its model card."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sft_speech.hub import markdown
from sft_speech.hub.published import on_hub, published
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.mixing import parts_of


class Trained(NamedTuple):
    """A corpus that was trained on.

    Args:
        source: as the option names it.
        shown: without the folders of a path.
        on_the_hub: its id on the Hub, or None.
        split: name of the split.
    """

    source: str
    shown: str
    on_the_hub: str | None
    split: str


def trained_of_sources(tables: Sequence[Mapping[str, Any]], on_disk: Collection[str]) -> list[Trained]:
    """Return the corpora of the option ``sources``.

    Args:
        on_disk: options that named a path when the run began, see :mod:`~sft_speech.hub.provenance`.
    """
    found = []
    for number, table in enumerate(tables):
        source, local = table["source"], f"sources.{number}" in on_disk
        on_the_hub = source if on_hub(source) and not local else None
        found.append(Trained(source, str(published(source, local)), on_the_hub, table.get("split", "all of it")))
    return found


def data_table(report: Mapping[str, Any], config: FinetuneConfig) -> str:
    """Return a table of the rows kept and dropped, without ids of utterances.

    Args:
        report: content of ``corpus_report.json``.
    """
    rows, splits = [], {role: split or "all of it" for role, (_, split) in config.corpora.items()}
    splits |= {part.name: part.place.split or "all of it" for part in parts_of(config)}
    for role, found in report.items():
        counts = {reason: len(ids) for reason, ids in found["dropped"]["reasons"].items()}
        why = ", ".join(
            f"{reason} {counts[reason]:,}" for reason in sorted(counts, key=counts.__getitem__, reverse=True)
        )
        kept = found["kept"]
        rows.append(
            [
                role,
                splits.get(role, ""),
                f"{kept['rows']:,}",
                f"{kept['hours']:.2f}",
                f"{found['dropped']['rows']:,}",
                why,
            ]
        )
    return markdown.table(["for", "split", "utterances kept", "hours", "dropped", "why"], rows) + "\n"
