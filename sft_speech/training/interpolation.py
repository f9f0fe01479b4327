"""Interpolation at the end of a run: the share of the trained weights, and the model that is saved.

See :mod:`sft_speech.models.interpolate`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate

from sft_speech.errors import UserError
from sft_speech.metrics.intervals import Comparison
from sft_speech.models.adapter_files import LORA
from sft_speech.models.interpolate import Mixture, Start, weights_of
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.keep import KEEP, SELECT
from sft_speech.options.spec import Metric
from sft_speech.training import checkpoints
from sft_speech.training.rows import Rows
from sft_speech.training.sharding import whole
from sft_speech.training.start import from_main
from sft_speech.training.task import Evaluation, Task
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

START = "start.safetensors"  # in the output directory, until the run is finished
SHARES = tuple(number / 10 for number in range(11))
ROUNDING = 1 + 1e-9  # a difference of one error is one standard error

Evaluate = Callable[[Rows], Evaluation]


@dataclass(frozen=True)
class Point:
    """A share and the model that it makes.

    Args:
        value: metric on the evaluation split.
        difference: to the best share; positive if it is worse.
        error: standard error of that difference, on the same utterances; None if single ones have no figures.
        kept: mean of the metric over the splits that ``select`` names; None if it was not computed.
    """

    share: float
    value: float
    difference: float = 0.0
    error: float | None = None
    kept: float | None = None

    @property
    def as_good(self) -> bool:
        """Whether it is as good as the best share, by one standard error."""
        return self.difference <= (self.error or 0.0) * ROUNDING


def choose(points: Sequence[Point], best: str) -> Point:
    """Return the point of the share to use: of those as good as the best, the smallest, as it forgets least.

    With ``kept``, it is the one of them that is best there. This is the rule of one standard error (Breiman et al.,
    "Classification and regression trees", 1984), with the share in place of the size of a tree.

    Args:
        best: "min" or "max", whichever is better of ``kept``.
    """
    sign = 1 if best == "min" else -1
    good = [point for point in points if point.as_good]
    return min(good, key=lambda point: (0.0 if point.kept is None else sign * point.kept, point.share))


def rule(metric: str, selects: Sequence[str], interval: bool) -> str:
    """Return the rule of :func:`choose` in words.

    Args:
        interval: whether the metric has one.
    """
    good = f"{metric} on the evaluation split is within one standard error (paired) of the best"
    if not interval:
        return f"the share with the best {metric} on the evaluation split"
    if selects:
        return f"of the shares whose {good}, the best on {', '.join(selects)}"
    return f"the smallest share whose {good}"


def search(
    task: Task[Any], metric: Metric, rows: Rows, selects: Mapping[str, Rows], mixture: Mixture, evaluate: Evaluate
) -> list[Point]:
    """Evaluate a handful of shares. All processes must call it; each gets the same points.

    Args:
        rows: the evaluation split.
        selects: splits that decide between shares that are equally good on it.

    Raises:
        UserError: no share has a finite value.
    """
    evaluations: dict[float, Evaluation] = {}
    for share in SHARES:
        mixture.set(share)
        with no_warnings():
            evaluations[share] = evaluate(rows)
    values = {share: one.metrics()[metric.name] for share, one in evaluations.items() if metric.name in one.metrics()}
    if not values:
        why = f"no share has a finite {metric.name} on the evaluation split"
        raise UserError("interpolate auto", why, "give a share from 0 to 1, or leave interpolate out")
    sign = 1 if metric.best == "min" else -1
    best = min(values, key=lambda share: (sign * values[share], share))
    compared = from_main(
        accelerate.PartialState(), lambda: compare_all(task, metric.name, evaluations, list(values), best)
    )
    points = []
    for share, value in values.items():
        error = compared[share].error if compared[share] else None
        point = Point(share, value, sign * (value - values[best]), error)
        if selects and point.as_good:
            mixture.set(share)
            found = [evaluate(one).metrics().get(metric.name, float("inf") * sign) for one in selects.values()]
            point = Point(share, value, point.difference, error, sum(found) / len(found))
        points.append(point)
    return points


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Suppress warnings of evaluations, such as of hypotheses that loop: most of these models are not used."""
    tasks = logging.getLogger("sft_speech.tasks")
    level = tasks.level
    tasks.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tasks.setLevel(level)


def compare_all(
    task: Task[Any], metric: str, evaluations: Mapping[float, Evaluation], shares: Sequence[float], best: float
) -> dict[float, Any]:
    """Return the comparison of each share with the best one; None if the metric has no interval."""
    with tempfile.TemporaryDirectory() as folder:
        evaluations[best].save(Path(folder), "best")
        file = Path(folder, "best.jsonl")
        if not file.is_file():
            return dict.fromkeys(shares)
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found: dict[float, Comparison | None] = {one: task.compare(evaluations[one], lines, metric) for one in shares}
    return found


def keep_start(config: FinetuneConfig, task: Task[Any], trainer: ExactTrainer, resumed: Path | None) -> Start | None:
    """Write the weights of the loaded checkpoint, if they are needed at the end; on the main process.

    Args:
        trainer: the trainer of the run, before training starts.
        resumed: the checkpoint that the run resumes from; the file of its run is used.

    Raises:
        UserError: all weights are new, or the disk cannot be written.
    """
    if config.interpolate is None:
        return None
    output, new, names = Path(config.output_dir), task.new_weights(), weights_of(task.model).keys()
    if not names - set(new):
        why = "all weights of the model are new, so there is no start to return to"
        raise UserError("interpolate", why, "leave it out, or start from a pretrained model")
    if trainer.is_fsdp_enabled and any(LORA in name for name in names):
        why = "the updates of a sharded model are merged after its evaluation"
        do = "launch with configs/accelerate/multi_gpu.yaml, or mix afterwards: sft-speech interpolate START END -o DIR"
        raise UserError("interpolate with LoRA under FSDP", why, do)
    file = output / START
    own = resumed is not None and resumed.resolve().parent == output.resolve()
    if accelerate.PartialState().is_main_process and not (own and file.is_file()):
        with checkpoints.disk_errors(file, "start again"):
            Start.save(task.model, file, new)
    return Start(file, new)


def interpolate(
    config: FinetuneConfig,
    task: Task[Any],
    metric: Metric,
    corpora: Mapping[str, Rows],
    trainer: ExactTrainer,
    start: Start | None,
) -> dict[str, Any]:
    """Give the trained model the weights to save: a mean of those at the start and at the end.

    All processes must call it; each sets its own weights, or its pieces of them.

    Returns:
        The share, how it was chosen, and the figures without interpolation, for ``all_results.json``; empty without
        interpolation.
    """
    if start is None:
        return {}

    def evaluate(rows: Rows) -> Evaluation:
        with whole(trainer):
            return task.evaluate(rows.table)

    mixture, given = Mixture(task.model, start), config.interpolate
    held_out = {role: rows for role, rows in corpora.items() if role == "eval" or role.startswith(KEEP)}
    unmixed = {
        f"{role}_{name}": value for role, rows in held_out.items() for name, value in evaluate(rows).metrics().items()
    }
    record: dict[str, Any] = {"share": given, "metric": metric.name, "rule": "given", "curve": []}
    if given == "auto":
        selects = {role: rows for role, rows in corpora.items() if role.startswith(SELECT)}
        points = search(task, metric, corpora["eval"], selects, mixture, evaluate)
        chosen = choose(points, metric.best)
        known = any(point.error is not None for point in points)
        record |= {"share": chosen.share, "rule": rule(metric.name, list(selects), known)}
        record["curve"] = [curve_row(point, metric.name) for point in points]
    mixture.set(record["share"])
    record |= {"not_mixed": mixture.kept, "unmixed": unmixed}
    log(record, metric)
    return record


def curve_row(point: Point, metric: str) -> dict[str, float | None]:
    row: dict[str, float | None] = {"share": point.share, metric: point.value}
    row |= {"difference": point.difference, "standard_error": point.error}
    return row if point.kept is None else row | {"select": point.kept}


def log(record: Mapping[str, Any], metric: Metric) -> None:
    """Log the share, its curve and which weights are not mixed; warn if nothing of the training is left."""
    lines = [f"interpolation: {record['share']:g} of the trained weights ({record['rule']})"]
    for row in record["curve"]:
        shown = f"  {row['share']:.1f}  {metric.heading} {metric.shown(row[metric.name])}"
        if row["standard_error"] is not None and row["difference"]:
            best, error = metric.shown(row["difference"], "+"), metric.shown(row["standard_error"])
            shown += f"  ({best} to the best, standard error {error})"
        lines.append(shown + "  <- used" * (row["share"] == record["share"]))
    if names := record["not_mixed"]:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"  not mixed, since they are new or of another shape at the start: {shown}")
    logger.info("%s", "\n".join(lines))
    if record["share"] == 0:
        logger.warning(
            "interpolation: the model that is saved has none of the training: its weights are those at the start%s",
            ", which the evaluation split can't tell from the trained ones" if record["curve"] else "",
        )
