"""Finished runs as the candidates of a comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.hub import provenance
from sft_speech.hub.card import LOG
from sft_speech.options.names import current
from sft_speech.options.settings import read_yaml
from sft_speech.options.spec import Metric, TaskSpec
from sft_speech.tasks import task_of
from sft_speech.tools.compare.candidates import FREE
from sft_speech.tools.compare.grid import short_paths
from sft_speech.tools.compare.outcomes import Comparison, Outcome, read_json


def outcomes_of_runs(folders: Sequence[str | Path], command: str = "") -> Comparison:
    """Return a comparison of finished runs, from their output directories; nothing is run.

    The splits that all of them evaluated count.

    Raises:
        UserError: a directory has no finished run, the runs are of different tasks, or they were evaluated on different
            splits.
    """
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) != len(paths) or len(paths) < 2:
        given = " ".join(map(str, paths)) or "no runs"
        raise UserError(given, "a comparison needs at least two different runs", "give their output directories")
    runs = [Run(path, name) for path, name in zip(paths, short_paths(path.resolve() for path in paths), strict=True)]
    first = runs[0]
    for other in runs[1:]:
        if other.spec.name != first.spec.name:
            why = f"the first is for {first.spec.summary}, the second for {other.spec.summary}"
            raise UserError(f"{first.path} and {other.path}", why, "compare runs of one task")
    splits = {role: split for role, split in first.splits.items() if all(one.splits.get(role) == split for one in runs)}
    if not splits or ("eval" not in splits and any("eval" in one.splits for one in runs)):
        other = next(one for one in runs if one.splits.get("eval") != first.splits.get("eval") or one is runs[-1])
        shown = [", ".join(one.splits.values()) or "nothing" for one in (first, other)]
        why = f"they were evaluated on different splits ({shown[0]} and {shown[1]})"
        do = "evaluate both on the same split: set the same eval_split and test_splits"
        raise UserError(f"{first.path} and {other.path}", why, do)
    metric = metric_of(runs)
    varied = [key for key in first.keys_of(runs) if len({_text(one.values.get(key)) for one in runs}) > 1]
    role = "eval" if "eval" in splits else min(splits)
    outcomes = [one.outcome({key: one.values.get(key) for key in varied}, splits[role]) for one in runs]
    common = {key: value for key, value in first.values.items() if key not in varied}
    return Comparison(first.spec.name, outcomes, metric, splits, common, command)


def metric_of(runs: Sequence[Run]) -> Metric:
    """Return the metric that picked the best checkpoint of all runs, or the first one of the task that all have."""
    spec = runs[0].spec
    chosen = {str(one.values.get("metric_for_best_model")) for one in runs}
    wanted = [metric for metric in spec.metrics if {metric.name} == chosen] or list(spec.metrics)
    having = [one for one in wanted if all(run.has(one.name) for run in runs)]
    if not having:
        raise UserError(" ".join(str(one.path) for one in runs), "they have no figure in common", "evaluate them first")
    return having[0]


class Run:
    """The output directory of a finished run.

    Attributes:
        figures: the content of ``all_results.json``.
        values: its options.
        splits: name of each evaluated split by its role.

    Raises:
        UserError: it is not one.
    """

    def __init__(self, path: Path, name: str) -> None:
        from sft_speech.training.run import RESULTS

        self.path, self.name = path, name
        if not (path / RESULTS).is_file() or not (path / "run.yaml").is_file():
            why = f"it is not the directory of a finished run (no {RESULTS} or run.yaml)"
            raise UserError(str(path), why, "give the output_dir of a run that has ended")
        self.spec: TaskSpec = task_of(path)
        self.figures: dict[str, float] = read_json(path / RESULTS)
        if not self.figures:
            raise UserError(str(path / RESULTS), "it is not what a run writes", "repeat the run")
        self.values: dict[str, Any] = current(read_yaml(str(path / "run.yaml"), "settings of the run,"))
        known = {key: value for key, value in self.values.items() if key in self.spec.config.__dataclass_fields__}
        self.splits = {
            role: split or role
            for role, (_, split) in self.spec.config(**known).corpora.items()
            if role != "train" and any(key.startswith(f"{role}_") for key in self.figures)
        }

    def has(self, metric: str) -> bool:
        return any(f"{role}_{metric}" in self.figures for role in self.splits)

    def keys_of(self, runs: Sequence[Run]) -> list[str]:
        """Return the options that may tell runs apart."""
        return sorted({key for one in runs for key in one.values} - FREE)

    def outcome(self, settings: dict[str, Any], split: str) -> Outcome:
        """Return its outcome, as far as its files record it.

        Args:
            split: the one that decides.
        """
        parameters, size = _weights(self.path)
        kind = read_json(self.path / "config.json").get("model_type")
        updates = max((int(one.get("step", 0)) for one in self._log()), default=0)
        figures, seconds = self.figures, self._seconds()
        summary = read_json(self.path / "evaluation" / f"{file_stem(split)}.json")
        factor, cpu_factor = summary.get("real_time_factor"), summary.get("cpu_real_time_factor")
        return Outcome(
            name=self.name,
            settings=settings,
            folder=self.path,
            status="finished",
            why="",
            figures=figures,
            rounds=[],
            trained_parameters=int(figures.get("trained_parameters", 0)),
            parameters=parameters,
            bytes=size,
            peak_bytes=int(figures["peak_bytes"]) if "peak_bytes" in figures else None,
            updates=updates,
            seconds_per_update=figures.get("seconds_per_update", seconds / updates if seconds and updates else None),
            audio_seconds_per_second=1 / factor if factor else self._speed("second"),
            cpu_seconds_per_update=figures.get("cpu_seconds_per_update"),
            architecture=f"{kind} of {parameters}" if kind else "",
            audio_seconds_per_cpu_second=1 / cpu_factor if cpu_factor else self._speed("cpu_second"),
        )

    def _speed(self, per: str) -> float | None:
        """Return the speed of evaluation; None if that is not how the model is used."""
        return self.figures.get(f"eval_audio_seconds_per_{per}") if self.spec.evaluate is not None else None

    def _seconds(self) -> float:
        """Return the seconds of training; 0 if they are not known, because the run was resumed."""
        return self.figures.get("train_runtime", 0.0) if len(provenance.read(self.path)) == 1 else 0.0

    def _log(self) -> list[dict[str, Any]]:
        entries = read_json(self.path / LOG).get("log_history", [])
        return [one for one in entries if isinstance(one, dict)]


def _weights(folder: Path) -> tuple[int, int]:
    """Return the number of parameters in the safetensors files of a model, and their bytes."""
    from math import prod

    from safetensors import safe_open

    files, parameters = sorted(folder.glob("model*.safetensors")), 0
    for file in files:
        with safe_open(file, "np") as weights:
            parameters += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return parameters, sum(file.stat().st_size for file in files)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
