"""Train the candidates of a comparison: probes, budgets, successive halving. Start reading at :meth:`Engine.run`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.lora import OF_A_NEW_ADAPTER
from sft_speech.options.spec import Metric, TaskSpec
from sft_speech.tools.compare.candidates import Candidate, Errors, metric_of
from sft_speech.tools.compare.outcomes import Outcome
from sft_speech.tools.compare.processes import Ending, Job, Runner
from sft_speech.tools.compare.runs import Run
from sft_speech.tools.compare.state import Entry, State

logger = logging.getLogger(__name__)

RESULTS = "all_results.json"  # of a run
FINALISTS = 2  # candidates that are trained to the end, at least
MEASURED_UPDATES = 12  # whose time decides how many a budget of minutes allows
# Options in optimizer steps, which shrink with the run.
STEPS = ("warmup_steps", "eval_steps", "freeze_encoder_steps", "unfreeze_every_steps")
# A run of which only the figure on the evaluation split matters, or only its speed.
SHORT: dict[str, Any] = {"evaluate_before": False, "save_total_limit": 1, "test_splits": [], "keep_splits": []}
HEAD = ["head"]
# A run that trains only the head, whatever the candidate trains.
PROBE: dict[str, Any] = OF_A_NEW_ADAPTER | {"lora_rank": 0, "lora_dropout": 0.0, "adapter": None, "train": HEAD}
PROBE |= {"freeze_encoder": False, "freeze_encoder_steps": 0, "unfreeze_every_steps": 0, "interpolate": None}
PROBE |= {"warmup_steps": 0.1, "eval_steps": 0.5}
UNEVALUATED: dict[str, Any] = {"eval_split": None, "eval_source": None, "early_stopping_patience": None}


@dataclass(frozen=True)
class Budget:
    """How long each candidate is trained.

    Args:
        updates: optimizer steps; None: as its options say.
        minutes: of training, without evaluation.
        halve: begin with a share of that, and give more to the better half, and so on.
        probe: optimizer steps of the head alone, after which the better half of the models stays; None: no probes.
    """

    updates: int | None = None
    minutes: float | None = None
    halve: bool = False
    probe: int | None = None

    def check(self, candidates: Sequence[Candidate]) -> None:
        """Raise UserError if the parts of the budget contradict each other or the candidates."""
        if self.updates is not None and self.minutes is not None:
            raise UserError("--budget_updates and --budget_minutes", "each sets the length of a run", "give one")
        limits = {"--budget_updates": self.updates, "--budget_minutes": self.minutes, "--probe": self.probe}
        for flag, value in limits.items():
            if value is not None and not value > 0:
                raise UserError(f"{flag} {value}", "nothing would be trained", "give more")
        if self.updates is not None or self.minutes is not None:
            for key in ("max_steps", "num_train_epochs"):
                if any(key in one.own for one in candidates):
                    raise UserError(f"{key} varies, with a budget", "the budget sets the length", "remove one of them")
        if self.probe is not None and len({one.config.model for one in candidates}) < 2:
            raise UserError("--probe", "all candidates have the same model", "vary the model, or leave --probe out")
        if self.halve and len(candidates) <= FINALISTS:
            raise UserError("--halve", f"there are only {len(candidates)} candidates", "leave it out")

    def key(self) -> dict[str, Any]:
        """Return what must stay the same if a comparison is continued, by its argument."""
        own = {"--budget_updates": self.updates, "--budget_minutes": self.minutes}
        return own | {"--halve": self.halve, "--probe": self.probe}

    def rounds(self, candidates: int) -> list[tuple[int, int]]:
        """Return the rounds: how many candidates take part, and one over the share of the budget of each.

        8 candidates: [(8, 4), (4, 2), (2, 1)].
        """
        counts = [candidates]
        while self.halve and counts[-1] > FINALISTS:
            counts.append(max(FINALISTS, math.ceil(counts[-1] / 2)))
        return [(count, 2 ** (len(counts) - number)) for number, count in enumerate(counts, 1)]


def lasting(config: FinetuneConfig, share: float, updates: int | None) -> FinetuneConfig:
    """Return the options of a run of a share of the length, with a whole schedule of its own.

    Args:
        updates: the whole length in optimizer steps; None: as the options say.
    """
    changes: dict[str, Any] = {}
    if updates is None and config.max_steps > 0:
        updates = config.max_steps
    if updates is not None:
        changes["max_steps"] = max(1, round(share * updates))
    else:
        changes["num_train_epochs"] = share * config.num_train_epochs
    for key in STEPS:
        steps = getattr(config, key, 0)
        if steps >= 1:
            changes[key] = type(steps)(max(1, round(share * steps)))
    return with_options(config, changes)


def with_options(config: FinetuneConfig, changes: dict[str, Any]) -> FinetuneConfig:
    """Return options with those changes that the class has."""
    known = {one.name for one in dataclasses.fields(config)}
    return dataclasses.replace(config, **{key: value for key, value in changes.items() if key in known})


class Engine:
    """Trains the candidates of a comparison.

    Each stage of each candidate is one run, which begins with the checkpoint of the candidate and has a learning-rate
    schedule of its own: "probe", "measure", a round of halving ("1/4", "1/2"), and the last one, "1". What is done is
    in the state, so that a continued comparison does the rest; only failures are tried again.

    Args:
        spec: the task.
        state: what has been done.
        budget: how long candidates are trained.
        run: does the runs.
        config: options of any candidate.
    """

    def __init__(self, spec: TaskSpec, state: State, budget: Budget, run: Runner, config: FinetuneConfig) -> None:
        self.spec, self.state, self.budget, self.run_jobs, self.config = spec, state, budget, run, config
        self.dropped: dict[str, str] = {}  # why, by name

    def run(self, candidates: Sequence[Candidate], probes: Sequence[Candidate] = ()) -> list[Outcome]:
        """Train the candidates. Return their outcomes.

        Args:
            probes: candidates that train only the head, one per model.
        """
        left = self.probe(list(candidates), probes)
        if self.budget.minutes is not None:
            left = self.measure(left)
        rounds = self.budget.rounds(len(left)) if left else []
        for number, (_, denominator) in enumerate(rounds):
            stage = "1" if denominator == 1 else f"1/{denominator}"
            self.do(stage, self.runs(left, stage, 1 / denominator))
            if number + 1 < len(rounds):
                after = f"after round {number + 1} of {len(rounds)}"
                left = self.best(left, stage, rounds[number + 1][0], after)
        return [self.outcome(one) for one in candidates]

    def runs(self, candidates: Sequence[Candidate], stage: str, share: float) -> list[tuple[Candidate, FinetuneConfig]]:
        """Return the candidates with their options in a round; those whose options do not fit its length fail.

        Of candidates that begin with the same checkpoint, only the first evaluates it.
        """
        runs, begun = [], set[str]()
        for one in candidates:
            try:
                config = lasting(one.config, share, self.updates(one))
                same = {"evaluate_before": False} if one.start in begun else {}
                begun.add(one.start)
                runs.append((one, with_options(config, SHORT if share < 1 else same)))
            except UserError as error:
                why = f"{error.given}: {error.why}"
                self.state.entry(one).results[stage] = {"status": "failed", "why": why, "seconds": 0, "figures": {}}
        return runs

    def updates(self, candidate: Candidate) -> int | None:
        """Return the optimizer steps that the budget gives a candidate; None if its options decide."""
        if self.budget.minutes is None:
            return self.budget.updates
        measured = self.state.entry(candidate).results["measure"]["figures"]["seconds_per_update"]
        return max(1, int(60 * self.budget.minutes / measured))

    def probe(self, candidates: list[Candidate], probes: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates of the better half of the models, by training only their heads.

        Models whose probe fails stay, since nothing is known about them.
        """
        if not probes:
            return candidates
        self.do("probe", [(one, one.config) for one in probes])
        failed = [one.config.model for one in probes if self.value(one, "probe") is None]
        kept = self.best(probes, "probe", math.ceil(len(probes) / 2), "after the probes", record=False)
        models = {one.config.model for one in kept} | set(failed)
        values = {one.config.model: self.value(one, "probe") for one in probes}
        for one in candidates:
            if one.config.model not in models:
                found = self.figure(values[one.config.model])
                self.dropped[one.name] = f"by the probes, which trained only the head: {found}"
        return [one for one in candidates if one.config.model in models]

    def measure(self, candidates: list[Candidate]) -> list[Candidate]:
        """Measure the seconds per update of each candidate. Return those that could be trained."""
        short = SHORT | UNEVALUATED | {"max_steps": MEASURED_UPDATES, "logging_steps": 1, "warmup_steps": 0.1}
        short |= {"freeze_encoder_steps": 0, "unfreeze_every_steps": 0, "interpolate": None, "oom_check": True}
        self.do("measure", [(one, with_options(one.config, short)) for one in candidates])
        left = []
        for one in candidates:
            result = self.result(one, "measure")
            if "seconds_per_update" in result.get("figures", {}):
                left.append(one)
                seconds = result["figures"]["seconds_per_update"]
                given = (one.name, seconds, self.budget.minutes, self.updates(one))
                logger.info("%s: %.3g s per update, so that %g minutes are %d updates", *given)
        return left

    def best(
        self, candidates: Sequence[Candidate], stage: str, count: int, after: str, record: bool = True
    ) -> list[Candidate]:
        """Return the best candidates of a stage, in the order of the grid; note why the others are dropped.

        Args:
            count: how many at most; failed ones are not among them.
            after: when they are dropped.
        """
        metric = self.metric
        sign = 1 if metric.best == "min" else -1
        valued = [(one, self.value(one, stage)) for one in candidates]
        ranked = sorted(((sign * value, place) for place, (_, value) in enumerate(valued) if value is not None))
        kept = {place for _, place in ranked[:count]}
        for place, (one, value) in enumerate(valued):
            if record and place not in kept and value is not None:
                updates = self.result(one, stage).get("updates", 0)
                self.dropped[one.name] = f"{after}, {updates} updates, at {self.figure(value)}"
        return [one for place, (one, _) in enumerate(valued) if place in kept]

    # ---- results

    def result(self, candidate: Candidate, stage: str) -> dict[str, Any]:
        return self.state.entry(candidate).results.get(stage, {})

    @property
    def metric(self) -> Metric:
        """The metric that decides."""
        unspaced = any(result.get("headline") == "cer" for one in self.state.entries for result in one.results.values())
        return metric_of(self.spec, self.config, unspaced)

    def value(self, candidate: Candidate, stage: str) -> float | None:
        """Return the figure that decides; None if the run has failed."""
        value = self.result(candidate, stage).get("figures", {}).get(f"eval_{self.metric.name}")
        return value if value is not None and math.isfinite(value) else None

    def figure(self, value: float | None) -> str:
        """Return a figure that decides, in words."""
        metric = self.metric
        if value is None:
            return f"no {metric.name}"
        unit = " %" if metric.heading.endswith(" %") else ""
        return f"{metric.heading.removesuffix(unit)} {metric.scale * value:.4g}{unit}"

    def outcome(self, candidate: Candidate) -> Outcome:
        """Return what became of a candidate."""
        entry, why = self.state.entry(candidate), self.dropped.get(candidate.name, "")
        rounds = [stage for stage in entry.results if stage.startswith("1")]
        rounds.sort(key=lambda stage: -int(stage.partition("/")[2] or 1))  # 1/4, 1/2, 1
        last = rounds[-1] if rounds else "1"
        own: dict[str, Any] = {
            "name": candidate.name,
            "settings": candidate.settings,
            "folder": self.folder(entry, last),
        }
        own["rounds"] = [
            {"updates": result["updates"], "seconds": result["seconds"], "value": value}
            for stage in rounds
            if (result := entry.results[stage])["status"] == "finished"
            and (value := self.value(candidate, stage)) is not None
        ]
        if why:
            return Outcome(**own, status="dropped", why=why)
        if entry.results.get("1", {}).get("status") != "finished":
            failed = [result["why"] for result in entry.results.values() if result["why"]]
            return Outcome(**own, status="failed", why=failed[-1] if failed else "its speed could not be measured")
        run = Run(self.folder(entry, "1"), candidate.name)
        return dataclasses.replace(run.outcome(candidate.settings, run.splits["eval"]), **own)

    # ---- runs

    def do(self, stage: str, runs: Sequence[tuple[Candidate, FinetuneConfig]]) -> None:
        """Do those runs of a stage that are not done yet.

        Args:
            runs: candidates, and their options in this stage.
        """
        jobs, entries = [], {}
        for candidate, config in runs:
            entry = self.state.entry(candidate)
            folder = self.folder(entry, stage)
            done = entry.results.get(stage, {}).get("status") == "finished"
            if done and (stage != "1" or (folder / RESULTS).is_file()):
                continue
            config = dataclasses.replace(config, output_dir=str(folder))
            log = self.state.folder / "logs" / folder.relative_to(self.state.folder).parent / f"{entry.folder}.log"
            jobs.append(Job(candidate.name, self.spec.name, config, log))
            entries[str(folder)] = entry
        if done := len(runs) - len(jobs):
            logger.info("%d of %d runs are done already", done, len(runs))

        def record(job: Job, ending: Ending) -> None:
            entry, folder = entries[job.config.output_dir], Path(job.config.output_dir)
            entry.results[stage] = result = self.recorded(job, ending)
            self.state.save()
            shown = result["why"] or self.figure(result["figures"].get(f"eval_{self.metric.name}"))
            if result["why"] or stage != "measure":
                logger.info("%s: %s after %.0f s: %s", job.name, result["status"], result["seconds"], shown)
            if stage != "1":
                tidy(folder, whole=stage == "measure")

        if jobs:
            self.run_jobs(jobs, record)

    def folder(self, entry: Entry, stage: str) -> Path:
        """Return the output directory of a run."""
        names = {"1": "runs", "probe": "probes", "measure": "measured"}
        part = names.get(stage, f"rounds/{stage.replace('/', '_of_')}")
        return self.state.folder / part / entry.folder

    def recorded(self, job: Job, ending: Ending) -> dict[str, Any]:
        """Return the result of a run."""
        folder = Path(job.config.output_dir)
        result = {"status": "failed" if ending.why else "finished", "why": ending.why, "seconds": ending.seconds}
        if ending.why:
            return result | {"figures": {}}
        figures = _json(folder / RESULTS)
        if job.config.eval_split is not None or job.config.eval_source is not None:
            name = file_stem(job.config.corpora["eval"][1] or "eval")
            result["headline"] = _json(folder / "evaluation" / f"{name}.json").get("headline", "")
        kept = {key: value for key, value in figures.items() if key.startswith("eval_") or key == "seconds_per_update"}
        return result | {"updates": int(figures.get("updates", 0)), "figures": kept}


def tidy(folder: Path, whole: bool) -> None:
    """Remove the checkpoints of a run that is not continued, or all of it."""
    for path in [folder] if whole else folder.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def probes_of(candidates: Sequence[Candidate], updates: int) -> list[Candidate]:
    """Return for each model the candidate that trains only its head.

    Raises:
        UserError: its options do not fit that.
    """
    first: dict[str, Candidate] = {}
    for one in candidates:  # one that trains only the head has a learning rate for that
        if one.config.model not in first or (_head_only(one) and not _head_only(first[one.config.model])):
            first[one.config.model] = one
    errors, probes = Errors(), []
    for model, one in first.items():
        try:
            config = lasting(with_options(one.config, SHORT | PROBE), 1.0, updates)
        except UserError as error:
            errors.add(one.name, error)
            continue
        probes.append(Candidate(f"probe of {model}", {"model": model}, {"model": model, "train": HEAD}, config))
    errors.check(len(first))
    return probes


def _head_only(candidate: Candidate) -> bool:
    return candidate.config.train == HEAD


def check_rounds(candidates: Sequence[Candidate], budget: Budget) -> None:
    """Check that the options of all rounds fit together.

    Raises:
        UserError: some do not, such as a warm-up that is longer than a round.
    """
    errors = Errors()
    for one in candidates:
        try:
            for _, denominator in budget.rounds(len(candidates)):
                lasting(one.config, 1 / denominator, budget.updates)
        except UserError as error:
            errors.add(one.name, error)
    errors.check(len(candidates))


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
