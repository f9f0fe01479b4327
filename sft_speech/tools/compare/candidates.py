"""The candidates of a comparison: complete, checked options for every run, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.options.config import REGULARIZES, FinetuneConfig
from sft_speech.options.settings import load_config
from sft_speech.options.spec import Metric, TaskSpec
from sft_speech.tools.compare.grid import Plan

MOST_RUNS = 64
SHOWN = 8  # wrong candidates in an error
# Options that would give candidates other test sets, or other figures for the same hypotheses.
JUDGING = frozenset(
    "eval_source eval_split test_splits source_config normalizer metric_for_best_model markup channel multi_label "
    "label_column audio_column text_column speaker_column".split()
)
# Options that a comparison sets itself.
OURS = frozenset("output_dir resume_from_checkpoint run_name hub_model_id hub_private hub_strategy push_to_hub".split())
# Options that cannot change the figures of a run; they may differ when a comparison is continued.
FREE = OURS | frozenset(
    "dataloader_num_workers oom_check report_to logging_steps save_total_limit license allow_pickle "
    "trust_remote_code".split()
)
# Options that say how a checkpoint is trained, and cannot change its figures before training.
TRAINING = frozenset(
    "train unfreeze_every_steps layerwise_lr_decay freeze_feature_encoder freeze_encoder freeze_encoder_steps "
    "lora_rank lora_alpha lora_dropout lora_targets use_dora use_rslora max_batch_seconds update_seconds augment "
    "interpolate gradient_accumulation_steps num_train_epochs max_steps early_stopping_patience eval_steps seed optim "
    "learning_rate lr_scheduler_type warmup_steps hold_share final_lr_scale adam_beta1 adam_beta2 adam_epsilon "
    "weight_decay max_grad_norm max_nonfinite_steps gradient_checkpointing label_smoothing timestamp_share".split()
)


@dataclass(frozen=True)
class Candidate:
    """A candidate.

    Args:
        name: short and unique: "whisper-tiny lora_rank=8".
        settings: its varied keys and their values.
        own: the options that it sets itself.
        config: the options of its run; ``output_dir`` is a folder of the comparison, not of the run.
    """

    name: str
    settings: dict[str, Any]
    own: dict[str, Any]
    config: FinetuneConfig

    @property
    def options(self) -> dict[str, Any]:
        """All options that decide its figures."""
        return {key: value for key, value in dataclasses.asdict(self.config).items() if key not in FREE}

    @property
    def start(self) -> str:
        """What decides its figures before training; equal if they are."""
        kept = {key: one for key, one in self.options.items() if key not in TRAINING and not REGULARIZES.match(key)}
        return repr(sorted(kept.items()))


@dataclass
class Errors:
    """The errors of candidates, each with the candidates that have it."""

    found: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    def add(self, name: str, error: UserError) -> None:
        self.found.setdefault((error.given, error.why, error.do), []).append(name)

    def check(self, candidates: int) -> None:
        """Raise UserError if there are errors; with all of them."""
        if not self.found:
            return
        if len(self.found) == 1:
            (given, why, do), names = next(iter(self.found.items()))
            raise UserError(given if len(names) == candidates else f"{names[0]}: {given}", why, do)
        lines = [f"{names[0]}: {given}: {why} ({do})" for (given, why, do), names in self.found.items()]
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        wrong = sum(map(len, self.found.values()))
        why = "\n".join([f"{wrong} of {candidates} cannot run", *lines[:SHOWN], *more])
        raise UserError("candidates", why, "correct or remove them")


def candidates_of(plan: Plan, spec: TaskSpec, folder: Path, most: int = MOST_RUNS) -> list[Candidate]:
    """Return the candidates of a plan, whose options are checked.

    Raises:
        UserError: there are too few or too many of them, the options of some are wrong (all are named), or they would
            not be judged by the same figures.
    """
    cells = plan.cells()
    if len(cells) > most:
        do = f"vary fewer values, or raise --max_runs to {len(cells)}"
        raise UserError(f"{len(cells)} runs", f"more than {most} are refused", do)
    if len(cells) < 2:
        raise UserError("one candidate", "there is nothing to compare it with", "give a varied option two values")
    for key in JUDGING | OURS:
        if any(key in cell.options for cell in cells):
            why = "two candidates with different test sets cannot be compared"
            why = "every run of a comparison has its own" if key in OURS else why
            raise UserError(f"varied {key}", why, f"set {key} for all candidates, or leave it out")
    errors = Errors()
    found: dict[str, Candidate] = {}
    for cell in cells:
        try:
            config = load_config(spec.config, plan.file, plan.base | cell.options | {"output_dir": str(folder)})
        except UserError as error:
            errors.add(cell.label, error)
            continue
        one = Candidate(cell.label, cell.shown, cell.options, config)
        found.setdefault(repr(sorted(one.options.items())), one)  # `3e-5` and `0.00003` are the same
    errors.check(len(cells))
    candidates = _with_unique_names(list(found.values()))
    if len(candidates) < 2:
        raise UserError("one candidate", "all varied values mean the same", "give a varied option two values")
    _check_judged_alike(candidates)
    return candidates


def _with_unique_names(candidates: Sequence[Candidate]) -> list[Candidate]:
    taken: dict[str, int] = {}
    unique = []
    for one in candidates:
        taken[one.name] = taken.get(one.name, 0) + 1
        count = taken[one.name]
        unique.append(one if count == 1 else dataclasses.replace(one, name=f"{one.name} ({count})"))
    return unique


def _check_judged_alike(candidates: Sequence[Candidate]) -> None:
    first = candidates[0].config
    if first.push_to_hub:
        do = "leave it out; `sft-speech push` uploads the best one afterwards"
        raise UserError("push_to_hub", "a comparison uploads nothing", do)
    if "eval" not in first.corpora:
        raise UserError("no eval_split", "nothing would decide between the candidates", "set eval_split")
    held_out = {role: corpus for role, corpus in first.corpora.items() if role != "train"}
    for other in candidates[1:]:
        if {role: corpus for role, corpus in other.config.corpora.items() if role != "train"} != held_out:
            why = "two candidates with different test sets cannot be compared"
            raise UserError(f"{candidates[0].name} and {other.name}", why, "set eval_source for all candidates")


def check_models(candidates: Sequence[Candidate], spec: TaskSpec) -> None:
    """Check that the checkpoints exist.

    Raises:
        UserError: some do not; all are named.
    """
    from sft_speech.models.load import read_config

    errors, seen = Errors(), set()
    for one in candidates:
        config = one.config
        if (config.model, config.revision) in seen or config.model in spec.own_models:
            continue
        seen.add((config.model, config.revision))
        remote = bool(getattr(config, "trust_remote_code", False))
        try:
            read_config(config.model, revision=config.revision, trust_remote_code=remote)
        except UserError as error:
            errors.add(one.name, error)
    errors.check(len(candidates))


def base_of(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return the options that all candidates share."""
    own = {key for one in candidates for key in one.own}
    return {key: value for key, value in candidates[0].options.items() if key not in own}


def metric_of(spec: TaskSpec, config: FinetuneConfig, unspaced: bool = False) -> Metric:
    """Return the metric that decides: the one that selects checkpoints, but for recognizers never their loss.

    Losses of different architectures are not comparable.

    Args:
        unspaced: the language has no spaces between words.
    """
    chosen = getattr(config, "metric_for_best_model", None)
    first = spec.metrics[0].name
    if chosen is None or (chosen == "loss" and first != "loss"):
        chosen = "cer" if unspaced else first
    return spec.metric(chosen)


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys that both have and whose values differ."""
    return [key for key, value in now.items() if key in before and before[key] != value]
