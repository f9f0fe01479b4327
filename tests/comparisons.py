"""Comparisons with evaluations as runs write them, made of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.options.spec import Metric
from sft_speech.tools.compare.outcomes import Comparison, Outcome

WER = Metric("wer", "WER %", scale=100, indexed=True, curve=True)
ACCURACY = Metric("accuracy", "accuracy %", best="max", scale=100, indexed=True, curve=True)


def write_lines(folder: Path, split: str, lines: list[dict[str, Any]], **summary: Any) -> None:
    """Write SPLIT.jsonl and SPLIT.json of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (folder / f"{split}.json").write_text(json.dumps(summary), encoding="utf-8")


def recognized(errors: list[int], words: int = 10, speakers: int = 0) -> list[dict[str, Any]]:
    """Return lines of a recognizer with these word errors; utterances are dealt out to the speakers in turn."""
    return [
        {"id": f"u{n:04}", "word_errors": count, "words": words, "character_errors": count, "characters": 5 * words}
        | ({"speaker": f"s{n % speakers}"} if speakers else {})
        for n, count in enumerate(errors)
    ]


def classified(right: list[bool], labels: tuple[str, ...] = ("yes", "no")) -> list[dict[str, Any]]:
    """Return lines of a classifier that is right or not about clips with these labels in turn."""
    lines = []
    for n, ok in enumerate(right):
        expected = labels[n % len(labels)]
        lines.append(
            {
                "id": f"c{n:04}",
                "expected": expected,
                "predicted": expected if ok else labels[(n + 1) % len(labels)],
                "loss": 0.5,
            }
        )
    return lines


def rate(lines: list[dict[str, Any]]) -> float:
    """Return the word error rate, or the accuracy, of lines."""
    if "words" in lines[0]:
        return sum(line["word_errors"] for line in lines) / sum(line["words"] for line in lines)
    return float(np.mean([line["expected"] == line["predicted"] for line in lines]))


def finished(
    folder: Path,
    name: str,
    lines: list[dict[str, Any]],
    *,
    metric: str = "wer",
    test: list[dict[str, Any]] | None = None,
    before: list[dict[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
    **costs: Any,
) -> Outcome:
    """Return a finished candidate, with its evaluations on the splits "dev" and "test" in a folder of its own."""
    own = folder / f"run{len(list(folder.iterdir()))}"
    write_lines(own / "evaluation", "dev", lines)
    figures = {f"eval_{metric}": rate(lines)} if lines else {}
    if test is not None:
        write_lines(own / "evaluation", "test", test)
        figures[f"test_{metric}"] = rate(test)
    if before is not None:
        write_lines(own / "evaluation/before", "dev", before)
    return Outcome(name, settings or {}, own, "finished", "", figures, [], **costs)


def compared(outcomes: list[Outcome], metric: Metric = WER, test: bool = False, **more: Any) -> Comparison:
    splits = {"eval": "dev"} | ({"test": "test"} if test else {})
    return Comparison("asr" if metric is WER else "classification", outcomes, metric, splits, **more)
