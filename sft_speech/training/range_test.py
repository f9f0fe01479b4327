"""A range test of the learning rate: a short run whose rate grows exponentially (Smith 2017, arXiv 1506.01186).

The loss is measured after each update on the same batches, the first of the run, without dropout and masks. The loss of
the training batches themselves would differ from update to update, because batches differ in difficulty, by more than
an update changes it. Those batches are trained on as well, but only while the rate is too low to change anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate.utils import set_seed
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.models.load import without_bars
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.spec import TaskSpec
from sft_speech.text.counted import counted
from sft_speech.training import batch_seconds
from sft_speech.training.callbacks import Divergence
from sft_speech.training.corpora import Given, load_splits, usable_rows
from sft_speech.training.ending import processes_of_run
from sft_speech.training.loss import Criterion, LossOutput
from sft_speech.training.lr_curve import Curve, read_curve
from sft_speech.training.run import build_trainer, load_task
from sft_speech.training.saving import preserved_rng
from sft_speech.training.start import from_main
from sft_speech.training.trainer import ExactTrainer

logger = logging.getLogger(__name__)

PROBES = 4  # batches of each process that the loss is measured on; the curve begins when they are complete
LEAST_POINTS = 10
TOO_HIGH = 4.0  # ends when the smoothed loss is this many times its minimum...
LOST = 0.5  # ...and this share of what it had fallen is lost again: a minimum near 0 is soon exceeded 4 times
DECAY = 0.7  # of the running mean that decides this


def range_test(
    config: FinetuneConfig, spec: TaskSpec, low: float, high: float, updates: int, given: Given | None = None
) -> Curve | None:
    """Train with the options of a run at growing learning rates, and save nothing.

    Args:
        config: options of the run; its ``output_dir`` is not touched.
        low, high: learning rate of the first and the last update.
        updates: number of updates.
        given: rows from Python.

    Returns:
        The curve on the main process, None on the others.

    Raises:
        UserError: the options, the model or the data cannot be used.
    """
    with processes_of_run() as processes, scratch_folder(processes) as folder:
        trainer = range_trainer(short_run(config, folder, high, updates), spec, given or Given(), processes)
        measured = RangeTest(trainer, low, high)
        with without_bars():
            trainer.train()
        curve = measured.curve() if processes.is_main_process else None
        processes.wait_for_everyone()  # before the folder is removed
    return curve


def short_run(config: FinetuneConfig, folder: str, high: float, updates: int) -> FinetuneConfig:
    """Return the options of the range test: those of a run without evaluation, schedule and checkpoints."""
    changed: dict[str, Any] = {
        "output_dir": folder,
        "learning_rate": high,
        "max_steps": updates,
        "lr_scheduler_type": "constant_with_warmup",  # replaced by `RangeTest`
        "warmup_steps": 0.0,
        "max_nonfinite_steps": updates,
        "eval_source": None,
        "eval_split": None,
        "test_splits": [],
        "sources": [{key: value for key, value in one.items() if key != "eval_split"} for one in config.sources],
        "keep_splits": [],
        "interpolate": None,
        "early_stopping_patience": None,
        "report_to": "none",
        "resume_from_checkpoint": None,
        "push_to_hub": False,
        "hub_strategy": "end",
    }
    for stages in ("freeze_encoder_steps", "unfreeze_every_steps"):
        if getattr(config, stages, 0):
            logger.info("the test trains all that the run trains from the first update on, whatever %s", stages)
            changed[stages] = 0
    short = dataclasses.replace(config, **changed)
    if config.model_copy is not None:
        short.started_with(config.model_copy)
    return short


def range_trainer(
    config: FinetuneConfig, spec: TaskSpec, given: Given, processes: accelerate.PartialState
) -> ExactTrainer:
    report = CorpusReport()
    corpora = from_main(processes, lambda: load_splits(config, report, given))
    task = load_task(config, spec, corpora["train"])
    corpora = from_main(processes, lambda: usable_rows(config, task, corpora, report))
    task.begin(corpora)
    batch_seconds.settle(config, task, corpora["train"], processes)
    trainer = build_trainer(config, spec, task, corpora, processes, [], report)
    trainer.args.save_strategy = SaveStrategy.NO
    trainer.remove_callback(Divergence)  # the test ends by diverging
    return trainer


class RangeTest(TrainerCallback):
    """Lets the rate of a trainer grow, and measures the loss after each update.

    Args:
        trainer: a trainer whose learning rate is ``high``.
        low, high: learning rate of the first and the last update.

    Attributes:
        rates, losses: of the updates so far; no loss is NaN or infinite.
    """

    def __init__(self, trainer: ExactTrainer, low: float, high: float) -> None:
        self.trainer, self.low, self.high = trainer, low, high
        self.probe = trainer.criterion = FirstBatches(trainer.criterion)
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.mean, self.lowest = 0.0, math.inf
        trainer.schedule = lambda step: self.rate(step) / high
        trainer.add_callback(self)

    def rate(self, step: float) -> float:
        """Return the learning rate of an update, counted from 0."""
        share = min(1.0, step / max(1, self.trainer.args.max_steps - 1))
        return self.low ** (1 - share) * self.high**share

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(self.probe.batches) < PROBES:
            return
        loss = self.loss()
        if math.isfinite(loss):
            self.rates.append(self.rate(state.global_step - 1))
            self.losses.append(loss)
            self.mean = DECAY * self.mean + (1 - DECAY) * loss
            self.lowest = min(self.lowest, mean := self.mean / (1 - DECAY ** len(self.losses)))
        if not math.isfinite(loss) or mean > max(TOO_HIGH, 1 + LOST * (self.losses[0] / self.lowest - 1)) * self.lowest:
            logger.info("the loss explodes at a learning rate of %.1e: the test ends", self.rate(state.global_step - 1))
            control.should_training_stop = True

    @torch.no_grad()
    def loss(self) -> float:
        """Return the loss of the probe, all processes together, the same on every one."""
        trainer, model = self.trainer, self.trainer.model_wrapped
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=trainer.args.device)
        with preserved_rng(trainer.args.device):
            set_seed(0)
            for batch in self.probe.batches:
                with trainer.compute_loss_context_manager():
                    sums[0] += self.probe.criterion.loss(model, batch).total.double()
                sums[1] += self.probe.criterion.count(batch)
        total, count = trainer.accelerator.reduce(sums, "sum").tolist()
        model.train()
        return float(total / (count or 1))

    def curve(self) -> Curve:
        """Return what was measured.

        Raises:
            UserError: the loss exploded within the first updates.
        """
        if len(self.losses) < LEAST_POINTS:
            why = f"the loss was finite after only {len(self.losses)} of them"
            raise UserError(counted(self.trainer.args.max_steps, "update"), why, "set a lower --low, or check the data")
        return read_curve(np.array(self.rates), np.array(self.losses))


class FirstBatches(Criterion):
    """A criterion that keeps the first batches, which the loss is measured on.

    Attributes:
        batches: the first :data:`PROBES` batches of this process, once they were trained on.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.batches: list[dict[str, Any]] = []

    def count(self, batch: dict[str, Any]) -> float:
        return self.criterion.count(batch)

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        if len(self.batches) < PROBES:
            self.batches.append(dict(batch))
        return self.criterion.loss(model, batch)

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        return self.criterion.report(sums)


@contextlib.contextmanager
def scratch_folder(processes: accelerate.PartialState) -> Iterator[str]:
    """Yield the name of a folder for what a run writes; the main process removes it."""
    with contextlib.ExitStack() as stack:
        made = partial(
            stack.enter_context, tempfile.TemporaryDirectory(prefix="sft_speech-", ignore_cleanup_errors=True)
        )
        yield from_main(processes, made) if processes.num_processes > 1 else made()
