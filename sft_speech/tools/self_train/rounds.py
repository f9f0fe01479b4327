"""The rounds of self-training, each of which is labelled and trained in processes of their own.

What is done is in ``self_train.json``, which is written after every step. Start reading at :meth:`Rounds.run`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.files import write_whole
from sft_speech.options.spec import Metric
from sft_speech.tasks import spec_of
from sft_speech.tools.compare.candidates import changed, metric_of
from sft_speech.tools.compare.engine import RESULTS, tidy
from sft_speech.tools.compare.outcomes import read_json
from sft_speech.tools.compare.processes import Ending, Job, Runner
from sft_speech.tools.self_train.labels import Unlabelled, changed_share, collect, reuse_second_teacher
from sft_speech.tools.self_train.options import Plan

logger = logging.getLogger(__name__)

STATE, VERSION = "self_train.json", 1
BEST = "student"  # link to the best student
AGAIN = "the same command continues"


@dataclass(frozen=True)
class Labelling:
    """The labelling of a corpus, as a process; see :class:`~sft_speech.tools.compare.processes.Job`."""

    name: str
    words: Sequence[str]
    log: Path

    def command(self) -> list[str]:
        """Return the command line, which resumes."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return [sys.executable, "-m", "sft_speech", "pseudo-label", *self.words, "--resume"]


class State:
    """What has been done: ``rounds`` by their numbers, each with "labels" and "student".

    Args:
        plan: what was asked for.
        corpora: fingerprints of the rows to label, by name.
        command: the command line.

    Raises:
        UserError: the directory holds something else, or the options or the corpora have changed.
    """

    def __init__(self, plan: Plan, corpora: dict[str, str], command: str) -> None:
        self.file = plan.folder / STATE
        for name in ("run.yaml", "compare.json"):
            if (plan.folder / name).exists():
                raise UserError(f"-o {plan.folder}", f"it holds another result ({name})", "choose another directory")
        now = json.loads(json.dumps(plan.key() | {"recordings": corpora}, default=str))
        before = read_json(self.file)
        if self.file.exists() and before.get("version") != VERSION:
            raise UserError(str(self.file), "it cannot be read", "choose another directory, or remove this one")
        if other := changed(before.get("options", {}), now):
            old = ", ".join(f"{key}: {before['options'][key]}, now {now[key]}" for key in other)
            why = f"its rounds were done with other options ({old[:500]})"
            raise UserError(f"-o {plan.folder}", why, "set them as before, or choose another directory")
        self.rounds: dict[int, dict[str, Any]] = {int(key): one for key, one in before.get("rounds", {}).items()}
        self.content = {"version": VERSION, "command": command, "options": now}
        self.result: dict[str, Any] = {}

    def save(self) -> None:
        """Write the state, and the result so far."""
        content = self.content | {"rounds": self.rounds} | self.result
        write_whole(self.file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


class Rounds:
    """Does the rounds.

    Args:
        plan: what was asked for.
        state: what has been done.
        corpora: the corpora to label.
        run: does processes.
        report: called after each round, and at the end.
    """

    def __init__(
        self, plan: Plan, state: State, corpora: Sequence[Unlabelled], run: Runner, report: Callable[[Rounds], Any]
    ) -> None:
        self.plan, self.state, self.corpora, self.run_jobs, self.report = plan, state, corpora, run, report
        self.why_ended = ""

    def run(self) -> None:
        """Do the rounds that are left, until no label is kept or the error on the evaluation split stays the same.

        Raises:
            UserError: a process failed, or the first round of all has no labels.
        """
        settings = self.plan.settings
        for number in range(settings.first, settings.rounds + 1):
            if number > 0 and not self.label(number):
                labels = self.state.rounds[number]["labels"]
                reasons = ", ".join(f"{reason}: {count:,}" for reason, count in labels["left_out"].items())
                why = f"none of the {labels['rows']:,} labels passes the filters ({reasons})"
                if not self.finished:
                    do = "use milder filters or another teacher, and another output_dir"
                    raise UserError(f"round {number}", why, do)
                self.why_ended = f"In round {number} {why}"
                break
            self.train(number)
            if len(self.finished) - 1 - self.finished.index(self.best) >= settings.patience:
                got = f"The last {settings.patience} rounds" if settings.patience > 1 else f"Round {number}"
                self.why_ended = f"{got} got no better than round {self.best}"
                break
        self.report(self)

    # ---- figures

    @property
    def finished(self) -> list[int]:
        """The rounds whose student is trained, in their order."""
        return [number for number in sorted(self.state.rounds) if self._is_done(number)]

    def _is_done(self, number: int) -> bool:
        done = self.state.rounds.get(number, {}).get("student", {}).get("status") == "finished"
        return done and (self.student(number) / RESULTS).is_file()

    @property
    def metric(self) -> Metric:
        """The metric that decides."""
        split = file_stem(self.plan.run.corpora["eval"][1] or "eval")
        summaries = (read_json(self.student(number) / "evaluation" / f"{split}.json") for number in self.finished)
        unspaced = any(one.get("headline") == "cer" for one in summaries)
        return metric_of(spec_of("asr"), self.plan.run, unspaced)

    def value(self, number: int) -> float:
        """Return the figure of a finished round that decides; infinite if it has none."""
        value = read_json(self.student(number) / RESULTS).get(f"eval_{self.metric.name}")
        return value if value is not None and math.isfinite(value) else math.inf

    @property
    def best(self) -> int:
        """The best finished round: the first one that no later one improves on by more than ``min_improvement``."""
        found = self.finished[0]
        for number in self.finished[1:]:
            if self.value(number) < self.value(found) - self.plan.settings.min_improvement:
                found = number
        return found

    # ---- a round

    def folder(self, number: int) -> Path:
        return self.plan.folder / "rounds" / str(number)

    def student(self, number: int) -> Path:
        return self.folder(number) / "student"

    def teacher(self, number: int) -> str:
        """Return the model that labels in a round."""
        settings = self.plan.settings
        first = settings.teacher or str(self.student(0))
        return first if number == 1 or settings.keep_teacher else str(self.student(number - 1))

    def manifest(self, number: int) -> Path:
        return self.folder(1 if self.plan.settings.keep_teacher else number) / "pseudo.jsonl"

    def label(self, number: int) -> bool:
        """Label for a round, unless that is done. Return whether labels are kept."""
        entry = self.state.rounds.setdefault(number, {}).setdefault("labels", {})
        if entry.get("status") != "finished":
            if self.plan.settings.keep_teacher and number > 1:
                entry |= self.state.rounds[1]["labels"] | {"changed": 0.0, "seconds": 0.0, "cpu_seconds": 0.0}
            else:
                self._label(number, entry)
            self.state.save()
        return bool(entry["kept"])

    def _label(self, number: int, entry: dict[str, Any]) -> None:
        folder, before = self.folder(number) / "labels", self.folder(number - 1) / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        reuse_second_teacher(before, folder, self.corpora)
        entry["teacher"] = teacher = self.teacher(number)
        pickle = ["--allow_pickle"] if self.plan.run.allow_pickle else []
        for one in self.corpora:
            words = [teacher, "-o", str(folder / f"{one.name}.jsonl"), *one.words(), *self.plan.labelling, *pickle]
            ending = self._do(Labelling(f"round {number}: labels of {one.name}", words, folder / "label.log"), entry)
            kept = read_json(folder / f"{one.name}.report.json").get("kept", {}).get("rows")
            if ending.why and not (ending.code == 2 and kept == 0):  # which is an error of pseudo-label
                self._fail(number, ending, folder / "label.log")
        entry |= collect(folder, self.manifest(number), self.corpora, self.plan.run.columns)
        entry |= {"changed": changed_share(before, folder, self.corpora), "status": "finished"}
        shown = entry["kept"], entry["rows"], entry["hours"]
        logger.info("round %d: %d of %d labels are kept, %.3g hours", number, *shown)

    def train(self, number: int) -> None:
        """Train the student of a round, unless that is done."""
        new = not self._is_done(number)
        if new:
            entry = self.state.rounds.setdefault(number, {}).setdefault("student", {})
            earlier = [one for one in self.finished if one < number]
            before = self.student(earlier[-1]) if earlier else None
            config = self.plan.student(number, before, self.manifest(number))
            job = Job(f"round {number}: student", "asr", config, self.folder(number) / "student.log")
            ending = self._do(job, entry)
            if ending.why:
                self._fail(number, ending, job.log)
            entry["status"] = "finished"
            self.state.save()
            value, metric = self.value(number), self.metric
            logger.info("round %d: %s %.4g%s", number, metric.title, metric.scale * value, metric.unit)
        tidy(self.student(number), whole=False)
        point_at(self.plan.folder / BEST, self.student(self.best))
        if new:
            self.report(self)

    def _do(self, job: Job | Labelling, entry: dict[str, Any]) -> Ending:
        """Run a process; add its seconds to the entry, also if it is stopped."""
        endings, began, cpu = list[Ending](), time.monotonic(), _cpu_seconds()
        try:
            self.run_jobs([job], lambda _, ending: endings.append(ending))
        finally:
            entry["seconds"] = entry.get("seconds", 0.0) + time.monotonic() - began
            entry["cpu_seconds"] = entry.get("cpu_seconds", 0.0) + _cpu_seconds() - cpu
            self.state.save()
        return endings[0]

    def _fail(self, number: int, ending: Ending, log: Path) -> None:
        if self.finished:
            self.report(self)
        raise UserError(f"round {number}", ending.why, f"see {log}; {AGAIN}")


def _cpu_seconds() -> float:
    """Return the time that ended child processes took on all processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def point_at(link: Path, folder: Path) -> None:
    """Make a relative link to a folder, in place of an older one; nothing where links are not supported."""
    new = link.with_name(f"{link.name}.new")
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
        os.replace(new, link)
    except OSError as error:
        logger.warning("%s cannot be made (%s): use %s", link, error.strerror, folder)
