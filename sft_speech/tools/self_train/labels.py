"""The pseudo-labels of a round: those of all unlabelled corpora as one manifest, and what became of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.files import open_whole
from sft_speech.options.keep import Place, name_of, unused
from sft_speech.options.mixing import common_source
from sft_speech.options.sources import columns_of
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tools.compare.outcomes import read_json

if TYPE_CHECKING:
    from sft_speech.tasks.asr.pseudo.rows import RowsToLabel

Text = tuple[str, str, str]  # reference, hypothesis, language
TEACHERS = ("teacher.jsonl", "second_teacher.jsonl")  # what they wrote, see tasks/asr/pseudo/label.py


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """A corpus to label.

    Args:
        name: name of its files.
        table: what names it: source, split, source_config, columns, channel.
    """

    name: str
    table: Mapping[str, Any]

    def rows(self, ignore_text: bool) -> RowsToLabel:
        """Return the rows to label.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        from sft_speech.tasks.asr.pseudo.rows import rows_to_label

        table = self.table
        given = {"config": table.get("source_config"), "columns": columns_of(table), "channel": table.get("channel")}
        return rows_to_label(table["source"], table.get("split"), ignore_text, given)

    def words(self) -> list[str]:
        """Return it as arguments of ``pseudo-label``."""
        return [word for key, value in self.table.items() for word in (f"--{key}", str(value))]


def unlabelled_of(tables: Sequence[Mapping[str, Any]], run: FinetuneAsrConfig) -> list[Unlabelled]:
    """Return the corpora to label.

    Args:
        tables: of the option; one without source is a split of the labelled corpus.

    Raises:
        UserError: there is no one labelled corpus that a split could be of.
    """
    labelled, found = run.source or common_source(run.sources), list[Unlabelled]()
    for table in tables:
        if "source" not in table:
            if not labelled:
                raise UserError(f"unlabelled: {table}", "it does not say of which source", "add `source:`")
            own = {f"{role}_column": run.columns.get(role) for role in ("audio", "text", "speaker")}
            own |= {"source": labelled, "source_config": run.source_config}
            table = {key: value for key, value in own.items() if value} | dict(table)
        if run.channel:  # as students will read them
            table = {"channel": run.channel} | dict(table)
        name = name_of(Place(table["source"], table.get("split"), table.get("source_config"), {}, None))
        found.append(Unlabelled(unused(name or "labels", [one.name for one in found]), table))
    return found


def reuse_second_teacher(before: Path, folder: Path, corpora: Sequence[Unlabelled]) -> None:
    """Take what the second teacher wrote in the round before, which it would only write again.

    Args:
        before, folder: folders of the labels of both rounds.
    """
    for one in corpora:
        old, new = (part / f"{one.name}.labels" / TEACHERS[1] for part in (before, folder))
        if old.is_file() and not new.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(old, new)
            except OSError:  # not on this file system
                shutil.copy2(old, new)


def collect(
    folder: Path, manifest: Path, corpora: Sequence[Unlabelled], columns: Mapping[str, str | None]
) -> dict[str, Any]:
    """Write the labels that are kept as one manifest, with the columns of the labelled corpus. Return the counts.

    Args:
        folder: has what ``pseudo-label`` wrote about each corpus.
        columns: names of columns by role, if they have others.

    Returns:
        "rows", "kept" and their "hours", "left_out" by reason, "wer" of the kept and of all labels if the rows had
        transcripts.
    """
    reports = [read_json(folder / f"{one.name}.report.json") for one in corpora]
    kept, rejected = list[Text](), list[Text]()
    with open_whole(manifest) as file:
        for one in corpora:
            for row in _lines(folder / f"{one.name}.jsonl"):
                kept += _known(row)
                row["id"] = f"{one.name}/{row['id']}" if len(corpora) > 1 else row["id"]
                row |= {"speaker": row.get("speaker", ""), "language": row.get("language", "")}
                row.pop("reference", None)
                renamed = {columns.get(key) or key: value for key, value in row.items()}
                file.write(json.dumps(renamed, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            for row in _lines(folder / f"{one.name}.rejected.jsonl"):
                rejected += _known(row)
    left_out: Counter[str] = Counter()
    for report in reports:
        left_out.update({reason: group["rows"] for reason, group in report["rejected"].items()} | report["dropped"])
    counts = {
        "rows": sum(report["rows"] for report in reports),
        "kept": sum(report["kept"]["rows"] for report in reports),
        "hours": sum(report["kept"]["hours"] for report in reports),
        "left_out": dict(left_out.most_common()),
    }
    return counts | {"wer_kept": wer_of(kept), "wer": wer_of([*kept, *rejected])}


def changed_share(before: Path, folder: Path, corpora: Sequence[Unlabelled]) -> float | None:
    """Return the WER of the labels of a round, rejected ones too, against those of the round before.

    Returns:
        None if there is no round before.
    """
    texts = list[Text]()
    for one in corpora:
        old, new = (list(_lines(part / f"{one.name}.labels" / TEACHERS[0])) for part in (before, folder))
        if len(old) != len(new):
            return None
        texts += [(a["text"], b["text"], b.get("language", "")) for a, b in zip(old, new, strict=True)]
    return wer_of(texts)


def wer_of(texts: Iterable[Text]) -> float | None:
    """Return the WER of all texts together, as the filters compare texts; None if there are none."""
    from sft_speech.metrics.words import sum_errors, word_errors
    from sft_speech.tasks.asr.pseudo.filters import scoring_in

    found = []
    for *pair, language in texts:
        scoring = scoring_in(language)
        reference, hypothesis = (scoring.words(scoring.reference(text)) for text in pair)
        found += word_errors([reference], [hypothesis])
    return sum_errors(found).rate if found else None


def _known(row: Mapping[str, Any]) -> list[Text]:
    return [(row["reference"], row["text"], row.get("language", ""))] if row.get("reference", "").strip() else []


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; none if there is no such file."""
    if file.is_file():
        with open(file, "rb") as lines:
            yield from map(json.loads, lines)
