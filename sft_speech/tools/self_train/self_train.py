"""Label unlabelled speech, train a student on labels and pseudo-labels, let it label again, and so on.

--config is the YAML of a run, whose source has the true labels, with a table `self_train:` that names what is
unlabelled, the first teacher, the number of rounds, and filters of the labels (the options of pseudo-label). It stops
when a round gets no better on eval_split. The same command continues after a stop, and does more rounds if `rounds` has
grown. Writes self_train.md, .csv, .json and .png, a directory for each round in rounds/, and a link to the best
student.

  sft-speech self-train --config my.yaml --self_train '{teacher: openai/whisper-small, unlabelled: recordings/}'
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import RESUMABLE, Stopped
from sft_speech.options.settings import add_config_arguments, overrides_of
from sft_speech.tools.self_train.options import Plan, RoundOptions, SelfTrainConfig, plan_of

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.asr.pseudo.rows import RowsToLabel
    from sft_speech.tools.self_train.report import Report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelfTrainResult:
    """The result of self-training.

    Args:
        student: directory of the best student.
        rounds: figures of each round.
        recommendation: what to take, and why.
    """

    student: Path
    rounds: list[dict[str, Any]] = field(default_factory=list)
    recommendation: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and an argument for each option of a run."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    keys = "\n".join(f"  {one.name:<18} {one.metadata['help']}" for one in fields(RoundOptions))
    parser.epilog = f"keys of the table self_train, beside any option of pseudo-label:\n{keys}"
    add_config_arguments(parser, SelfTrainConfig)


def main(args: argparse.Namespace) -> int:
    """Do the rounds that are left, write the report, print the recommendation."""
    plan = plan_of(args.config, overrides_of(SelfTrainConfig, args))
    try:
        report = train_rounds(plan, shlex.join(["sft-speech", *args.argv]))
    except Stopped:
        logger.warning("stopped; the same command continues")
        return RESUMABLE
    first, *rest = report.advice()
    print("\n".join([first, *(f"- {line}" for line in rest), report.command]))
    print("\n".join(str(plan.folder / f"self_train.{end}") for end in ("md", "csv", "png")))
    return 0


def self_train(
    config: str | Path | None = None, *, self_train: Mapping[str, Any] | None = None, **options: Any
) -> SelfTrainResult:
    """Train a recognizer in rounds on labels and on pseudo-labels, as ``sft-speech self-train`` does.

    Args:
        config: YAML file of options.
        self_train: keys of the table ``self_train``: ``unlabelled``, ``teacher``, ``rounds``, filters, ...
        options: any option of a run, such as ``model``, ``source``, ``eval_split``, ``output_dir``.

    Raises:
        UserError: the options, a model or the data cannot be used, or a round failed.
    """
    plan = plan_of(None if config is None else str(config), options | {"self_train": dict(self_train or {})})
    report = train_rounds(plan, "sft_speech.self_train")
    return SelfTrainResult(report.rounds.student(report.best), report.records(), report.advice())


def train_rounds(plan: Plan, command: str) -> Report:
    """Do the rounds that are left. Return the report, which is written."""
    from sft_speech.models.load import read_config
    from sft_speech.tools.compare.processes import Processes
    from sft_speech.tools.self_train.labels import unlabelled_of
    from sft_speech.tools.self_train.report import write_report
    from sft_speech.tools.self_train.rounds import Rounds, State
    from sft_speech.training.lock import OutputLock

    for config in (plan.run, plan.student(1, None, Path("labels"))):
        read_config(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    for teacher in filter(None, (plan.settings.teacher, plan.parsed.second_teacher)):
        read_config(teacher)
    corpora = unlabelled_of([one for one in plan.settings.unlabelled if isinstance(one, dict)], plan.run)
    rows = {one.name: one.rows(plan.parsed.ignore_text) for one in corpora}
    warn_of_evaluated(plan, rows)
    lock = OutputLock(plan.folder)
    with contextlib.closing(lock):
        lock.hold()
        state = State(plan, {name: one.fingerprint() for name, one in rows.items()}, command)
        rounds = Rounds(plan, state, corpora, Processes([None], logger.info), write_report)
        rounds.run()
        return write_report(rounds)


def warn_of_evaluated(plan: Plan, rows: Mapping[str, RowsToLabel]) -> None:
    """Warn about unlabelled utterances that are evaluated on too: the figures would look better than they are."""
    from sft_speech.corpora import load_corpus
    from sft_speech.corpora.report import CorpusReport

    run, unlabelled = plan.run, {one for table in rows.values() for one in _clips(table.rows)}
    for role in run.reported:
        place = run.place(role)
        given = {"config": place.config, "columns": place.columns, "channel": place.channel}
        clips = _clips(load_corpus(place.source, place.split, name=role, report=CorpusReport(), **given))
        if shared := sum(one in unlabelled for one in clips):
            logger.warning(
                "%s: %d of its %d utterances are labelled and trained on", run.title(role), shared, len(clips)
            )


def _clips(rows: Dataset) -> list[tuple[str, float | None]]:
    """Return what tells recordings in files, and their segments, apart."""
    audios = zip(rows["audio"], rows["start"][:], strict=True)
    # The names of audio inside tables tell nothing: other corpora have the same ones.
    return [(str(Path(one["path"]).resolve()), start) for one, start in audios if one["bytes"] is None]
