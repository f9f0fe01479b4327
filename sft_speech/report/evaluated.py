"""The evaluations of a run, before and after training, utterance by utterance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.files import read_json
from sft_speech.hub.card import LOG, Run
from sft_speech.hub.files import checkpoints
from sft_speech.metrics.intervals import Comparison, compare
from sft_speech.metrics.utterances import Line, Lines, measured, read_lines, speakers_of
from sft_speech.metrics.words import confusions
from sft_speech.options.keep import KEEP
from sft_speech.options.spec import Metric, TaskSpec
from sft_speech.text.scoring import words_of

LENGTHS = 5  # ranges of length, with about as many utterances each
EDGES = [quarter / LENGTHS for quarter in range(1, LENGTHS)]


class Part(NamedTuple):
    """Some of the utterances, and the metric of each system on them."""

    label: str
    utterances: int
    values: list[float]


@dataclass
class Columns:
    """The same utterances, scored for one system or several: before and after training, or several runs.

    Args:
        lines: of each system, with the same ids in the same order.
        metrics: those of the task.
        spaced: whether words have spaces between them.
        headline: name of the metric that comes first, if the evaluation names one.
    """

    lines: Sequence[Lines]
    metrics: Sequence[Metric]
    spaced: bool = True
    headline: str = ""

    @cached_property
    def metric(self) -> Metric | None:
        """The first metric that is a sum over utterances; None if there is none."""
        order = sorted(self.metrics, key=lambda one: (one.name != self.headline, not one.curve))
        for metric in order if self.lines and self.lines[0] else []:
            found = measured(self.lines, metric.name)
            if found is not None and found[0][0].shape[1] == 2:
                return metric
        return None

    @cached_property
    def units(self) -> np.ndarray:
        """(systems, N, 2) what each utterance contributes to the metric: its errors and its words, for example."""
        found = measured(self.lines, self.metric.name) if self.metric is not None else None
        return np.zeros((len(self.lines), 0, 2)) if found is None else np.array(found[0])

    @cached_property
    def wrong(self) -> np.ndarray:
        """(systems, N) errors of each utterance, or its loss."""
        if self.metric is None or not self.units.size:
            return np.zeros((len(self.lines), 0))
        sums, sizes = self.units[..., 0], self.units[..., 1]
        return sizes - sums if self.metric.best == "max" else sums

    @property
    def ids(self) -> list[str]:
        return list(self.lines[-1]) if self.lines else []

    @cached_property
    def has_texts(self) -> bool:
        """Whether there are hypotheses to be compared with references."""
        return bool(self.ids) and all(texts(one[self.ids[0]]) is not None for one in self.lines)

    def compare(self, first: int = 0, second: int = -1) -> Comparison | None:
        """Return the paired difference of the second system to the first; None without a metric."""
        if self.metric is None or not self.ids:
            return None
        found = measured([self.lines[second], self.lines[first]], self.metric.name)
        if found is None:
            return None
        (later, earlier), statistic = found
        return compare(later, earlier, statistic, speakers_of(self.lines))

    def grouped(self, labels: Sequence[str]) -> list[Part]:
        """Return the metric of each system by the labels of the utterances, the worst of the last system first."""
        if self.metric is None or not self.units.size:
            return []
        parts, of = [], np.array(labels)
        for name in dict.fromkeys(labels):
            sums = self.units[:, of == name].sum(1)
            values = self.metric.scale * sums[:, 0] / np.maximum(sums[:, 1], 1e-9)
            parts.append(Part(name, int((of == name).sum()), values.tolist()))
        sign = -1 if self.metric.best == "min" else 1
        return sorted(parts, key=lambda part: (sign * part.values[-1], part.label))

    def by_speaker(self) -> list[Part]:
        """Return the metric by speaker; nothing if there are no two."""
        parts = self.grouped([name or "(unknown)" for name in speakers_of(self.lines)]) if self.ids else []
        return parts if len(parts) > 1 else []

    def by_length(self) -> list[Part]:
        """Return the metric by ranges of length, the shortest first; nothing if all are alike."""
        lines = list(self.lines[-1].values()) if self.lines else []
        if not lines or not all(line.get("seconds") for line in lines):
            return []
        seconds = np.array([line["seconds"] for line in lines])
        edges = np.unique(np.round([seconds.min(), *np.quantile(seconds, EDGES), seconds.max()], 2))
        if len(edges) < 3:
            return []
        names = [f"{low:g} to {high:g} s" for low, high in pairwise(edges)]
        parts = self.grouped([names[place] for place in np.digitize(seconds, edges[1:-1], right=True)])
        return sorted(parts, key=lambda part: names.index(part.label))

    @cached_property
    def confused(self) -> list[Counter[tuple[str, str]]]:
        """How often each word, or class, became another one, for each system; "" is a missing word."""
        return [self._confused(one) for one in self.lines] if self.has_texts else []

    def _confused(self, lines: Lines) -> Counter[tuple[str, str]]:
        pairs = [texts(line) or ("", "") for line in lines.values()]
        if "expected" in next(iter(lines.values())):  # a class may have a space in its name
            return Counter(pair for pair in pairs if pair[0] != pair[1])
        references, hypotheses = ([words_of(text, self.spaced) for text in side] for side in zip(*pairs, strict=True))
        return confusions(references, hypotheses)

    def repeated(self) -> list[tuple[tuple[str, str], list[int]]]:
        """Return the confusions that at least one system has more than once, with their counts for each."""
        rows = [(pair, [one[pair] for one in self.confused]) for pair in set[tuple[str, str]]().union(*self.confused)]
        found = [row for row in rows if max(row[1]) > 1]
        return sorted(found, key=lambda row: (-row[1][-1], -max(row[1]), row[0]))

    def words(self) -> list[tuple[str, int, list[int]]]:
        """Return words of the references, how often they occur and how often each system had them wrong."""
        if not self.has_texts or "expected" in self.lines[-1][self.ids[0]]:
            return []
        references = [(texts(line) or ("",))[0] for line in self.lines[-1].values()]
        said = Counter(word for text in references for word in words_of(text, self.spaced).split())
        missed: list[Counter[str]] = [Counter() for _ in self.confused]
        for counter, pairs in zip(missed, self.confused, strict=True):
            for (word, _), count in pairs.items():
                counter[word] += count
        rows = [(word, count, [one[word] for one in missed]) for word, count in said.items()]
        found = [row for row in rows if any(row[2])]
        return sorted(found, key=lambda row: (-row[2][-1], -max(row[2]), row[0]))


def texts(line: Line) -> tuple[str, str] | None:
    """Return the reference and the hypothesis that errors are counted between; None if the task has none."""
    if "expected" in line:
        return str(line["expected"]), str(line["predicted"])
    if "hypothesis" not in line:
        return None
    reference, hypothesis = line["reference"], line["hypothesis"]
    return str(line.get("normalized_reference", reference)), str(line.get("normalized_hypothesis", hypothesis))


@dataclass
class Evaluated:
    """A split that a run evaluated.

    Args:
        role: its role in the run.
        title: its name.
        figures, before: the figures after and before training; empty if it was not evaluated then.
        after, earlier: the lines after and before training, with the same ids; empty likewise.
        metrics: those of the task.
        chosen: name of the metric that selects the best checkpoint of the run.
    """

    role: str
    title: str
    figures: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Lines
    earlier: Lines
    metrics: Sequence[Metric] = field(default_factory=tuple)
    chosen: str = ""

    @property
    def headline(self) -> str:
        """The name of the metric that comes first: that of a language without spaces, or else the chosen one."""
        return str((self.figures or self.before).get("headline") or self.chosen)

    @cached_property
    def columns(self) -> Columns:
        """Before and after training, or the one that there is."""
        lines = [one for one in (self.earlier, self.after) if one]
        return Columns(lines, self.metrics, (self.figures or self.before).get("headline") != "cer", self.headline)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [name for name, one in (("before", self.earlier), ("after", self.after)) if one]


def evaluated(run: Run) -> list[Evaluated]:
    """Return the splits that a run evaluated: test splits first, then those that select, then those to keep.

    Raises:
        UserError: a file cannot be read.
    """
    folder, files = run.folder / "evaluation", run.evaluation_files
    selects = str(getattr(run.config, "metric_for_best_model", None) or "")
    chosen = "" if selects == "loss" else selects  # a loss does not say what went wrong
    found = []
    for role in run.config.reported:
        title = run.config.title(role)
        path = folder / f"{file_stem(title)}.json"
        figures = files.get(path, {})
        # The figures in all_results.json are of this run; a resumed one may have left others in the folder.
        own = not run.figures or any(key.startswith(f"before_{role}_") for key in run.figures)
        before = read_json(folder / "before" / path.name) if own else {}
        after = read_lines(folder, title) if figures else {}
        earlier = read_lines(folder / "before", title) if before else {}
        if after and earlier and after.keys() != earlier.keys():
            earlier = {}
        earlier = {id: earlier[id] for id in after or earlier} if earlier else {}
        if figures or before:
            metrics = run.spec.metrics
            found.append(Evaluated(role, title, figures, before, after, earlier, metrics, chosen))
    selecting = run.config.selecting
    return sorted(found, key=lambda one: (one.role.startswith(KEEP), one.role in selecting))


def run_of(folder: Path, task_of: Callable[[Path], TaskSpec]) -> Run:
    """Return the run in a directory, finished or not.

    Args:
        task_of: returns the task of a saved model.

    Raises:
        UserError: the directory holds no run.
    """
    given = str(folder)
    if not folder.is_dir():
        raise UserError(given, "there is no such directory", "give the --output_dir of a run")
    saved = checkpoints(folder)
    model = folder if (folder / "config.json").is_file() else saved[-1] if saved else None
    if not (folder / "run.yaml").is_file() or model is None:
        missing = "config.json or checkpoint-N" if (folder / "run.yaml").is_file() else "run.yaml"
        raise UserError(given, f"it is not the directory of a run (no {missing})", "give the --output_dir of a run")
    spec = task_of(model)
    if (folder / LOG).is_file() or not saved:
        return Run(folder, spec)
    return Run(folder, spec, log=read_json(saved[-1] / "trainer_state.json").get("log_history", []))
