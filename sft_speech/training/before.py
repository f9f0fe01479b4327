"""Before and after: the starting checkpoint is evaluated before step 1, and the trained model is compared with it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from sft_speech.corpora.report import file_stem
from sft_speech.corpora.rows import column_of
from sft_speech.metrics.change import Change
from sft_speech.metrics.intervals import Comparison
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.keep import KEEP
from sft_speech.options.spec import Metric
from sft_speech.training.rows import Rows
from sft_speech.training.saving import preserved_rng
from sft_speech.training.selection import figures_of
from sft_speech.training.sharding import whole
from sft_speech.training.task import Evaluation, Task
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

FOLDER = "evaluation/before"


class BeforeAndAfter(TrainerCallback, ExportableState):
    """Evaluates the starting checkpoint before step 1, and compares the trained model with it.

    The evaluation runs once the model is on its device, wrapped and perhaps sharded, as the later ones do. Its figures
    are saved in every checkpoint, so that a resumed run has them.

    Args:
        config: options of the run.
        task: the task of the run.
        corpora: rows by role; those of ``config.reported`` are evaluated.
        trainer: the trainer of the run.
        metric: the metric that picks the best checkpoint.
        evaluated: called on the main process once the evaluation has succeeded, before step 1.

    Attributes:
        found: by role, the figures of the starting checkpoint and a digest of the utterances that they belong to.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        task: Task[Any],
        corpora: Mapping[str, Rows],
        trainer: ExactTrainer,
        metric: Metric,
        evaluated: Callable[[], None],
    ) -> None:
        self.config, self.task, self.trainer, self.metric = config, task, trainer, metric
        self.held_out = {role: corpora[role] for role in config.reported}
        self.folder = Path(config.output_dir) / FOLDER
        self.evaluated = evaluated
        self.found: dict[str, dict[str, Any]] = {}

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"found": self.found}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        main, name = self.trainer.is_world_process_zero(), type(self).__name__
        if main and self.trainer.saved is None:  # not resumed from a checkpoint in this directory
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.trainer.resumed_from is not None:
            # The Trainer requires the entry; checkpoints of older versions lack it.
            self.found = state.stateful_callbacks.setdefault(name, self.state())["attributes"]["found"]
        elif self.task.can_evaluate_at_start():
            # What is to be kept means nothing without the figures before.
            self.evaluate([role for role in self.held_out if self.config.evaluate_before or role.startswith(KEEP)])
        if main:
            self.evaluated()

    def evaluate(self, roles: Sequence[str]) -> None:
        """Evaluate the starting checkpoint and log its figures as those of step 0."""
        trainer = self.trainer
        if not roles:
            return
        with trainer.stop.at_once(), preserved_rng(trainer.args.device), whole(trainer):
            for role in roles:
                rows = self.held_out[role]
                evaluation = self.task.evaluate_at_start(rows.table)
                self.found[role] = {"figures": evaluation.metrics(), "utterances": digest(rows)}
                if trainer.is_world_process_zero():
                    evaluation.save(self.folder, self.config.title(role))
                    found = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics().items())
                    logger.info("%s before training: %s", self.config.title(role), found)
        figures = figures_of(self.config, {role: found["figures"] for role, found in self.found.items()})
        if figures:
            trainer.log({f"eval_{name}": value for name, value in figures.items()})

    def figures(self) -> dict[str, float]:
        """Return the figures of the starting checkpoint on the splits of this run: ``before_eval_wer``, ..."""
        return {
            f"before_{role}_{name}": value
            for role, found in self.found.items()
            if self.is_of_this_run(role)
            for name, value in found["figures"].items()
        }

    def is_of_this_run(self, role: str) -> bool:
        """Return whether figures belong to the utterances of this run; a resumed run may have other splits."""
        return role in self.held_out and self.found[role]["utterances"] == digest(self.held_out[role])

    def change(self, role: str, evaluation: Evaluation) -> Change | None:
        """Return what training has changed on a split; None if the figures before or after are not known."""
        name = self.metric.name
        if role not in self.found or not self.is_of_this_run(role):
            return None
        before, after = self.found[role]["figures"].get(name), evaluation.metrics().get(name)
        if before is None or after is None:
            return None
        split = self.config.title(role)
        return Change(split, self.metric, before, after, self.compare(split, evaluation))

    def compare(self, split: str, evaluation: Evaluation) -> Comparison | None:
        """Return the difference between the evaluations of a split; None if it has no interval."""
        file = self.folder / f"{file_stem(split)}.jsonl"
        try:
            with open(file, encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            return self.task.compare(evaluation, rows, self.metric.name)
        except FileNotFoundError:  # resumed into another directory
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s): the difference has no interval", file, error)
            return None

    def report(self, evaluations: Mapping[str, Evaluation]) -> None:
        """Log what training has changed on each split, and warn if it is for the worse.

        Args:
            evaluations: those of the trained model, by role; ``keep_splits`` are reported elsewhere.
        """
        own = {role: one for role, one in evaluations.items() if not role.startswith(KEEP)}
        changes = [change for role, one in own.items() if (change := self.change(role, one)) is not None]
        for change in changes:
            logger.info("%s", change)
        if worse := [str(change) for change in changes if change.worse]:
            command = self.task.data_check()
            logger.warning(
                "the model is worse than the checkpoint it started from (%s). Try a lower learning_rate (now %g) or "
                "fewer epochs (early_stopping_patience ends a run in time), and look at the data%s",
                *("; ".join(worse), self.config.learning_rate, f": `{command}`" if command else ""),
            )


def digest(rows: Rows) -> str:
    """Return a digest of the ids of utterances, in their order."""
    ids = hashlib.sha256()
    for id in column_of(rows.table, "id").to_pylist():
        ids.update(f"{id}\n".encode(errors="backslashreplace"))
    return ids.hexdigest()[:16]
