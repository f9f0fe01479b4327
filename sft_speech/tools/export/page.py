"""The report of an export as text and as a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_speech.hub.markdown import code, table, text
from sft_speech.tasks import spec_of
from sft_speech.text.counted import counted
from sft_speech.tools.export.targets import Target


def rows_of(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what, the original, the exported model."""
    task = "asr" if report["metric"] == "wer" else "classification"
    metric = spec_of(task).metric(report["metric"])

    def rate(side: str) -> str:
        low, high = (metric.shown(one) for one in report[side]["interval"])
        return f"{metric.shown(report[side]['value'])} [{low}, {high}]"

    def faster(name: str) -> tuple[str, str]:
        first, second = (f"{1 / report[name][side]:.1f}" for side in ("torch", "exported"))
        return first, second

    sizes = report["megabytes"]
    return [
        (metric.heading, rate("torch"), rate("exported")),
        ("seconds of audio per second", *faster("real_time_factor")),
        ("seconds of audio per second of CPU time", *faster("cpu_real_time_factor")),
        ("weights, MB (torch: float32)", f"{sizes['torch']:.1f}", f"{sizes['exported']:.1f}"),
    ]


def agreement(report: Mapping[str, Any]) -> list[str]:
    """Return how far both models agree, a sentence each."""
    what = "transcripts" if report["metric"] == "wer" else "labels"
    found = [
        f"{report['same']} of {report['compared']} {what} are the same",
        f"largest difference: {report['largest_difference']:.2g} in the {report['difference_of']}, "
        f"whose largest value is {report['largest_value']:.3g}",
    ]
    if report["difference"]:
        low, high = report["difference"]["interval"]
        found.append(
            f"{report['metric'].upper() if what == 'transcripts' else 'accuracy'} of the exported model minus that of "
            f"the original: {100 * report['difference']['value']:+.2f} % [{100 * low:+.2f}, {100 * high:+.2f}]"
        )
    return found


def lines(report: Mapping[str, Any], target: Target, output: str) -> list[str]:
    """Return the report for the terminal."""
    found = [f"{output}: for {target.title}{', 8 bits' if report['int8'] else ''}"]
    if target.measured:
        width = max(len(head) for head, *_ in rows_of(report))
        found += agreement(report)
        found += [f"{head:{width}}  {one:>22}  {other:>22}" for head, one, other in [HEADS, *rows_of(report)]]
    return [*found, usage(report, target, output)]


HEADS = ("", "torch", "exported")


def usage(report: Mapping[str, Any], target: Target, output: str) -> str:
    """Return the commands that use the directory."""
    verb = "classify" if report["task"] == "classification" else "transcribe"
    return target.usage.replace("VERB", verb).replace("DIR", shlex.quote(output))


def page(report: Mapping[str, Any], target: Target, output: str) -> str:
    """Return the page beside the exported model, in Markdown."""
    bits = ", weights in 8 bits" if report["int8"] else ""
    command = code(usage(report, target, Path(output).name), "sh")
    parts = [f"# {text(report['model'])} for {target.title}{bits}", command]
    if not target.measured:
        parts.append("The weights are those of the original in float32. The converted file was not compared with it.")
        return "\n\n".join(parts) + "\n"
    where = f"{text(report['source'])}, split {text(report['split'])}"
    parts += [
        f"Compared with the original on the CPU, {counted(report['threads'], 'thread')}, "
        f"{counted(report['compared'], 'utterance')}, {report['seconds'] / 60:.1f} minutes of {where}:",
        "\n".join(f"- {text(one)}" for one in agreement(report)),
        table(HEADS, rows_of(report)),
        "Intervals are 95 %, by bootstrap. Speeds are of one pass each, reading the audio included; other work on the "
        "machine changes the first more than the second. All figures: export_report.json.",
    ]
    return "\n\n".join(parts) + "\n"
