"""The result of self-training: a row for each round as Markdown, CSV and JSON, a picture, and what to take in words."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_speech.files import open_whole, write_whole
from sft_speech.hub import markdown
from sft_speech.hub.plots import Curve, draw
from sft_speech.metrics.intervals import Interval
from sft_speech.options.spec import Metric
from sft_speech.tasks import spec_of
from sft_speech.tools.compare.advice import between, differ, duration, number, p_value, with_interval
from sft_speech.tools.compare.engine import RESULTS
from sft_speech.tools.compare.judge import LEVEL, USELESS, SplitFigures, Versus
from sft_speech.tools.compare.outcomes import Comparison, Outcome, read_json
from sft_speech.tools.self_train.rounds import BEST, Rounds

STEM = "self_train"
LEGEND = (
    "Brackets: 95 % intervals by bootstrap. Difference: to the round before, paired on the same utterances, with its "
    "95 % interval and p-value. Times: of labelling and training together."
)
LEGENDS = {
    "changed %": "Changed: WER of all labels of the round against those of the round before.",
    "label WER %": "Label WER: that of the labels that are kept, and of all, against transcripts that were not used.",
}


class Report:
    """The figures of the finished rounds.

    Args:
        rounds: with at least one that is finished.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds, self.numbers, self.best = rounds, rounds.finished, rounds.best
        spec, run = spec_of("asr"), rounds.plan.run
        self.metrics = [rounds.metric, *(spec.metric(one) for one in ("wer", "cer") if one != rounds.metric.name)]
        roles = [role for role in run.reported if role == "eval"] + [role for role in run.reported if role != "eval"]
        self.splits = {role: run.title(role) for role in roles}
        outcomes = [
            Outcome(str(one), {}, rounds.student(one), "finished", figures=read_json(rounds.student(one) / RESULTS))
            for one in self.numbers
        ]
        self.figures = {
            (role, metric.name): SplitFigures(Comparison("asr", outcomes, metric, self.splits), role, outcomes)
            for role in self.splits
            for metric in self.metrics
        }

    def versus(self, number: int, other: int) -> Versus | None:
        """Return the difference between two rounds on the evaluation split; None without figures of utterances."""
        deciding = self.figures["eval", self.metrics[0].name]
        return deciding.pair(str(number), str(other)) if deciding.over else None

    def previous(self, number: int) -> Versus | None:
        """Return the difference of a round to the one before; None for the first one."""
        place = self.numbers.index(number)
        return self.versus(number, self.numbers[place - 1]) if place else None

    def score(self, role: str, metric: Metric, number: int) -> str:
        score = self.figures[role, metric.name].scores.get(str(number))
        return "" if score is None else with_interval(metric, score)

    # ---- words

    def advice(self) -> list[str]:
        """Return which student to take, and why; a sentence or two per line."""
        metric, best, first, rounds = self.metrics[0], self.best, self.numbers[0], self.rounds
        lines = [f"Take the student of round {best}: {self._figure(best)}."]
        if rounds.value(best) > USELESS:
            lines = [
                f"No student is of use yet: the best, of round {best}, has {self._figure(best)}. Train for longer."
            ]
        if best != first:
            what = "the student of the labels alone" if first == 0 else f"the student of round {first}"
            other = f"{what}, which has {self._figure(first)}{self._tested(best, first)}"
            sure = (versus := self.versus(best, first)) is not None and versus.p_value < LEVEL
            lines.append(f"It is better than {other}." if sure else f"That it is better than {other} may be chance.")
        elif len(self.numbers) > 1:
            later = self.numbers[1]
            what = "Pseudo-labels did not help" if first == 0 else "Further rounds did not help"
            lines.append(f"{what}: round {later} has {self._figure(later)}{self._tested(later, first)}.")
        if rounds.why_ended:
            lines.append(f"{rounds.why_ended}.")
        elif len(self.numbers) > 1 and best == self.numbers[-1] == rounds.plan.settings.rounds:
            lines.append("The last round was still better: the same command with more `rounds` goes on from here.")
        tested = [f"{split} {self.score(role, metric, best)}" for role, split in self.splits.items() if role != "eval"]
        if tested:
            lines.append(f"On splits that did not decide: {', '.join(tested)}.")
        elif len(self.numbers) > 1:
            why = "both chose the round and gives its figure, which looks better than it is"
            lines.append(f"{self.splits['eval']} {why}. Set test_splits for a figure to report.")
        return lines

    def _figure(self, number: int) -> str:
        metric = self.metrics[0]
        return f"{metric.title} {self.score('eval', metric, number)} on {self.splits['eval']}"

    def _tested(self, one: int, other: int) -> str:
        versus = self.versus(one, other)
        if versus is None:
            return ""
        return f" ({differ(self.metrics[0], versus)}, {p_value(versus.p_value)})"

    @property
    def command(self) -> str:
        folder = self.rounds.plan.folder / BEST
        return f"sft-speech transcribe {shlex.quote(str(folder))} speech.wav"

    # ---- tables

    def records(self) -> list[dict[str, Any]]:
        """Return a flat record of each round for programs; figures are not scaled."""
        return [self._record(one) for one in self.numbers]

    def _record(self, one: int) -> dict[str, Any]:
        entry = self.rounds.state.rounds[one]
        labels, student = entry.get("labels", {}), entry["student"]
        record = {"round": one, "best": one == self.best, "folder": str(self.rounds.student(one))}
        record["teacher"] = labels.get("teacher")
        for key in ("rows", "kept", "left_out", "hours", "changed", "wer_kept", "wer"):
            record[f"labels_{key}"] = labels.get(key)
        for (role, metric), figures in self.figures.items():
            if (score := figures.scores.get(str(one))) is not None:
                record |= _limits(f"{role}_{metric}", score.value, score.interval)
        if (versus := self.previous(one)) is not None:
            record |= _limits("difference", versus.difference, versus.interval) | {"p_value": versus.p_value}
        for key in ("seconds", "cpu_seconds"):
            record[f"labelling_{key}"], record[f"training_{key}"] = labels.get(key), student.get(key)
        return record

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads and the rows of text of the table; columns that are empty for all are left out."""
        scores = [(role, metric) for role in self.splits for metric in self.metrics]
        heads = ["round", "teacher", "labels kept", "hours", "changed %", "label WER %", "of all labels %"]
        heads += [f"{metric.heading}, {self.splits[role]}" for role, metric in scores]
        heads += ["difference", "p", "time", "CPU time"]
        rows = [[*self._labels(one), *self._scores(one["round"], scores), *self._times(one)] for one in self.records()]
        used = [place for place in range(len(heads)) if any(row[place] for row in rows)]
        return [heads[place] for place in used], [[row[place] for place in used] for row in rows]

    def _labels(self, one: dict[str, Any]) -> list[str]:
        name = f"{one['round']} (best)" if one["best"] else str(one["round"])
        if one["labels_rows"] is None:
            return [name, *[""] * 6]
        own = self.rounds.plan.folder / "rounds"
        teacher = Path(one["teacher"])
        shown = f"round {teacher.parent.name}" if teacher.is_relative_to(own) else teacher.name
        shares = [one[f"labels_{key}"] for key in ("changed", "wer_kept", "wer")]
        kept = f"{one['labels_kept']:,} of {one['labels_rows']:,}"
        percent = ["" if share is None else f"{100 * share:.1f}" for share in shares]
        return [name, shown, kept, f"{one['labels_hours']:.2f}", *percent]

    def _scores(self, one: int, scores: Sequence[tuple[str, Metric]]) -> list[str]:
        metric, versus = self.metrics[0], self.previous(one)
        shown = [self.score(role, metric, one).replace(" %", "") for role, metric in scores]
        if versus is None:
            return [*shown, "", ""]
        signed = number(metric, versus.difference).replace("-", "−")
        return [*shown, f"{signed} [{between(metric, versus.interval)}]", p_value(versus.p_value).lstrip("p= ")]

    @staticmethod
    def _times(one: dict[str, Any]) -> list[str]:
        spent = ((one[f"labelling_{key}"] or 0) + one[f"training_{key}"] for key in ("seconds", "cpu_seconds"))
        return [*map(duration, spent)]

    def document(self) -> str:
        """Return everything in Markdown."""
        first, *rest = self.advice()
        heads, rows = self.table()
        left_out = [
            [str(one["round"]), f"{count:,}", reason]
            for one in self.records()
            for reason, count in (one["labels_left_out"] or {}).items()
        ]
        legend = " ".join([LEGEND, *(text for head, text in LEGENDS.items() if head in heads)])
        parts = ["# Self-training", f"**{markdown.text(first)}**", *map(markdown.text, rest)]
        parts += [markdown.code(self.command, "sh"), markdown.table([*map(markdown.text, heads)], rows)]
        parts += [markdown.text(legend), f"![error by round]({STEM}.png)"]
        if left_out:
            parts += ["## Labels left out", markdown.table(["round", "labels", "reason"], left_out)]
        parts += ["## Made by", markdown.code(self.rounds.state.content["command"], "sh")]
        return "\n\n".join(parts) + "\n"

    def table_csv(self) -> str:
        """Return the records as CSV with a header."""
        records, text = self.records(), io.StringIO()
        for one in records:
            one["labels_left_out"] = json.dumps(one["labels_left_out"] or {}, ensure_ascii=False)
        columns = dict.fromkeys(key for one in records for key in one)
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def picture(self) -> bytes:
        """Draw the errors by round as PNG, with their intervals, and those of the labels if they are known."""
        metric, curves, bands = self.metrics[0], list[Curve](), dict[str, list[tuple[float, float]]]()
        for role, split in self.splits.items():
            scores = {one: self.figures[role, metric.name].scores.get(str(one)) for one in self.numbers}
            known = {one: score for one, score in scores.items() if score is not None}
            curves.append((split, [*known], [metric.scale * score.value for score in known.values()]))
            around = [score.interval for score in known.values() if score.interval is not None]
            if len(around) == len(known):
                bands[split] = [(metric.scale * one.low, metric.scale * one.high) for one in around]
        errors = {one["round"]: one["labels_wer_kept"] for one in self.records()}
        if known_errors := {one: 100 * error for one, error in errors.items() if error is not None}:
            curves.append(("labels that are kept, WER %", [*known_errors], [*known_errors.values()]))
        return draw(f"{metric.heading} by round", curves, "round", self.best, bands, marked=True)


def write_report(rounds: Rounds) -> Report:
    """Write self_train.md, .csv, .json and .png; at least one round must be finished."""
    report, folder = Report(rounds), rounds.plan.folder
    with open_whole(folder / f"{STEM}.png") as file:
        file.write(report.picture())
    write_whole(folder / f"{STEM}.md", report.document())
    write_whole(folder / f"{STEM}.csv", report.table_csv())
    rounds.state.result = {
        "metric": report.metrics[0].name,
        "best": report.best,
        "student": str(rounds.student(report.best)),
        "recommendation": report.advice(),
        "table": report.records(),
    }
    rounds.state.save()
    return report


def _limits(name: str, value: float, interval: Interval | None) -> dict[str, float | None]:
    ends = (interval.low, interval.high) if interval else (None, None)
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
