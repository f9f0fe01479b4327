"""The result of a comparison as files: a table and the recommendation in Markdown, CSV, JSON, a picture, a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft_speech.files import open_whole, write_whole
from sft_speech.hub import markdown
from sft_speech.tools.compare.advice import advice, command
from sft_speech.tools.compare.judge import Judgement, effects, judge
from sft_speech.tools.compare.outcomes import Comparison, Outcome
from sft_speech.tools.compare.page import page
from sft_speech.tools.compare.picture import picture
from sft_speech.tools.compare.table import effect_heads, effect_rows, legend, roles_of, table, title

STEM = "compare"  # of the files
RESULT = "result.json"


def write_report(comparison: Comparison, folder: Path) -> Judgement:
    """Judge the candidates and write compare.md, .csv, .html and .png, and result.json into an existing folder.

    Raises:
        UserError: the candidates were evaluated on different utterances, or their files cannot be read.
    """
    judgement = judge(comparison)
    drawing = picture(judgement)
    if drawing is not None:
        with open_whole(folder / f"{STEM}.png") as file:
            file.write(drawing)
    texts = {f"{STEM}.md": document(judgement), f"{STEM}.csv": table_csv(judgement), f"{STEM}.html": page(judgement)}
    texts[RESULT] = json.dumps(to_dict(judgement), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    for name, text in texts.items():
        write_whole(folder / name, text)
    return judgement


def summary(judgement: Judgement) -> str:
    """Return the recommendation as text for a terminal."""
    first, *rest = advice(judgement)
    return "\n".join(filter(None, [first, *(f"- {line}" for line in rest), command(judgement)]))


def document(judgement: Judgement) -> str:
    """Return the recommendation and the tables in Markdown."""
    first, *rest = advice(judgement)
    parts = [f"# {markdown.text(title(judgement))}", f"**{markdown.text(first)}**"]
    if use := command(judgement):
        parts.append(markdown.code(use, "sh"))
    if rest:
        parts.append("\n".join(f"- {markdown.text(line)}" for line in rest))
    heads, rows = table(judgement)
    parts.append(markdown.table([markdown.text(head) for head in heads], rows))
    parts.append(markdown.text(legend(judgement)))
    if judgement.candidates:
        parts.append(f"![error against cost]({STEM}.png)")
    if found := list(effect_rows(judgement)):
        parts += ["## Mean by setting", markdown.table(effect_heads(judgement), found)]
    if judgement.comparison.command:
        parts += ["## Made by", markdown.code(judgement.comparison.command, "sh")]
    return "\n\n".join(parts) + "\n"


# ---- files for programs ----


def to_dict(judgement: Judgement) -> dict[str, Any]:
    """Return everything as JSON values; figures are not scaled."""
    chosen = judgement.chosen
    return {
        "task": judgement.comparison.task,
        "metric": judgement.metric.name,
        "better": judgement.metric.best,
        "decided_by": judgement.comparison.splits.get(judgement.role),
        "utterances": judgement.utterances,
        "speakers": judgement.speakers,
        "interval_over": judgement.over,
        "recommended": chosen.name if chosen else None,
        "recommendation": advice(judgement),
        "command": command(judgement),
        "candidates": list(records(judgement)),
        "effects": {
            key: [{"value": value, "mean": mean, "candidates": count} for value, mean, count in values]
            for key, values in effects(judgement).items()
        },
    }


def records(judgement: Judgement) -> Iterator[dict[str, Any]]:
    """Yield a flat record of each candidate, the best first, then the dropped and failed ones."""
    for rank, one in enumerate(judgement.candidates, 1):
        figures: dict[str, Any] = {}
        for role in roles_of(judgement):
            score = one.scores.get(role)
            key, around = f"{role}_{judgement.metric.name}", score.interval if score else None
            figures |= {key: _finite(score.value if score else None)}
            figures |= {f"{key}_low": _finite(around.low if around else None)}
            figures |= {f"{key}_high": _finite(around.high if around else None)}
        versus = one.versus
        figures |= {
            "difference": versus.difference if versus else None,
            "difference_low": versus.interval.low if versus else None,
            "difference_high": versus.interval.high if versus else None,
            "p_value": versus.p_value if versus else None,
            "like_the_best": one.alike,
            "recommended": one is judgement.chosen,
        }
        yield {"rank": rank} | _record(one.outcome) | figures | {"training_seconds": one.training_seconds}
    for outcome in judgement.others:
        yield {"rank": None} | _record(outcome)


def _record(one: Outcome) -> dict[str, Any]:
    return {
        "name": one.name,
        "status": one.status,
        "why": one.why,
        "settings": one.settings,
        "trained_parameters": one.trained_parameters or None,
        "parameters": one.parameters or None,
        "bytes": one.bytes or None,
        "peak_bytes": one.peak_bytes,
        "updates": one.updates or None,
        "seconds_per_update": one.seconds_per_update,
        "audio_seconds_per_second": one.audio_seconds_per_second,
        "folder": str(one.folder),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def table_csv(judgement: Judgement) -> str:
    """Return the records as CSV with a header; settings have a column each."""
    rows = []
    for record in records(judgement):
        settings = record.pop("settings")
        rows.append(record | {f"setting {key}": _plain(value) for key, value in settings.items()})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
