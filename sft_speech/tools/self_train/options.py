"""The options of self-training: those of a run, and a table `self_train:` for the rounds."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.options.names import advice
from sft_speech.options.parser import Parser
from sft_speech.options.settings import check_values, load_config, option, read_yaml, shown
from sft_speech.options.sources import read_tables
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.ctc.decoding import decoding_of
from sft_speech.tasks.asr.generation import generation_of
from sft_speech.tasks.asr.pseudo import verb
from sft_speech.tools.compare.candidates import FREE, JUDGING, OURS

TABLE = "self_train"
# Options of `pseudo-label` that are set here, or only by hand.
_SET_HERE = frozenset(
    "help teacher source source_config split audio_column text_column speaker_column channel output resume "
    "allow_pickle".split()
)
# Options that students cannot have for themselves: what is learned and what decides is the same in every round; two
# must not be set by a YAML.
_OF_ALL = JUDGING | OURS | {"source", "train_split", "sources", "allow_pickle", "trust_remote_code"}
# What may change when self-training is continued.
_LENGTH = ("rounds", "patience", "min_improvement")


@dataclasses.dataclass
class RoundOptions:
    """The table `self_train:`. Further keys in it are options of ``sft-speech pseudo-label``, such as the filters."""

    unlabelled: list[dict[str, Any] | str] = option(  # noqa: RUF009
        [], "corpora to label: sources, or tables {source, split, ...}; a table without source is of the run's source"
    )
    teacher: str | None = option(
        None, "recognizer that labels first, of any family; null: a student of the labels alone, round 0", path=True
    )
    labels_only: bool = option(False, "train round 0, a student of the labels alone, even if there is a teacher")
    rounds: int = option(3, "rounds of labelling and training, at most", 1)
    patience: int = option(1, "stop after this many rounds in a row that got no better on eval_split", 1)
    min_improvement: float = option(0.0, "a round is better if its error is lower by more than this; 0.01 is 1 %", 0.0)
    labelled_share: float | None = option(
        None, "share of the true labels in an epoch, in seconds; null: every utterance comes once", 0.01, 0.99
    )
    student: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "options of the run that students of pseudo-labels have instead: max_steps, augment, ..."},
    )
    continue_student: bool = option(False, "start each student from the one before instead of from the checkpoint")
    keep_teacher: bool = option(False, "the first teacher labels for all rounds; needs continue_student")

    def __post_init__(self) -> None:
        check_values(self)
        tables = [{"source": one} if isinstance(one, str) else one for one in self.unlabelled]
        self.unlabelled = list(read_tables(f"{TABLE}: unlabelled", tables))
        if not self.unlabelled:
            do = f"set `unlabelled:` in the table {TABLE}: a folder of recordings, or a corpus"
            raise UserError(f"{TABLE} without unlabelled", "there is nothing to label", do)
        if self.keep_teacher and not self.continue_student:
            why = "every round would be the same: the same labels, the same start"
            raise UserError(f"{TABLE}: keep_teacher", why, "set `continue_student: true` too, or remove it")
        for key in self.student:
            if key in _OF_ALL:
                raise UserError(f"{TABLE}: student: {key}", "it is the same for all rounds", "set it beside the table")

    @property
    def first(self) -> int:
        """Number of the first round."""
        return 0 if self.teacher is None or self.labels_only else 1


@dataclasses.dataclass
class SelfTrainConfig(FinetuneAsrConfig):
    """Options of self-training: those of a run, and the table of the rounds."""

    self_train: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "table of the rounds, see below; its keys override those of the YAML", "by_hand": False},
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Self-training as it was asked for, checked.

    Args:
        run: options of the run of a student of the labels alone.
        settings: the rounds.
        labelling: options of ``pseudo-label`` as words of a command line.
        parsed: the same, parsed.
    """

    run: FinetuneAsrConfig
    settings: RoundOptions
    labelling: list[str]
    parsed: argparse.Namespace

    @property
    def folder(self) -> Path:
        return Path(self.run.output_dir)

    def key(self) -> dict[str, Any]:
        """Return what must stay the same if self-training is continued."""
        own = {name: value for name, value in vars(self.settings).items() if name not in _LENGTH}
        run = {name: value for name, value in dataclasses.asdict(self.run).items() if name not in FREE}
        return run | own | {"labelling": self.labelling}

    def student(self, number: int, before: Path | None, manifest: Path) -> FinetuneAsrConfig:
        """Return the options of the run of a round.

        Args:
            before: the student of the round before; None in the first round.
            manifest: pseudo-labels of the round; round 0 has none.

        Raises:
            UserError: they do not fit together.
        """
        run, settings = self.run, self.settings
        changes: dict[str, Any] = {"output_dir": str(self.folder / "rounds" / str(number) / "student")}
        if number > 0:
            changes |= settings.student | {"source": "", "train_split": None, "sources": self.mix(manifest)}
            changes["eval_source"] = run.held_out_source
        if settings.continue_student and before is not None:
            changes |= {"model": str(before), "revision": None, "adapter": None}
            changes |= {"new_vocabulary": False, "from_scratch": False}
        return load_config(FinetuneAsrConfig, None, dataclasses.asdict(run) | changes)

    def mix(self, manifest: Path) -> list[dict[str, Any]]:
        """Return the sources of a student: the labelled ones and a manifest.

        Raises:
            UserError: the labelled sources have no weights that a share could be divided by, or have some and no share.
        """
        run, share = self.run, self.settings.labelled_share
        pseudo: dict[str, Any] = {"source": str(manifest)}
        alone = {"source": run.source, "split": run.train_split, "source_config": run.source_config}
        labelled: list[dict[str, Any]] = [dict(one) for one in run.sources] or [alone]
        known: list[float] = [one["weight"] for one in labelled if "weight" in one]
        weights = known or ([1.0] if len(labelled) == 1 else [])
        given = f"{TABLE}: labelled_share"
        if share is not None:
            if not weights or "temperature" in labelled[0]:
                raise UserError(given, "it is divided by the weights of sources", "give all of them a weight")
            for one, weight in zip(labelled, weights, strict=True):
                one["weight"] = share * weight / sum(weights)
            pseudo["weight"] = 1 - share
        elif known:
            raise UserError("sources: weight", "the share of the pseudo-labels is not known", f"set {given} too")
        if any("language" in one or "language_column" in one for one in labelled):
            pseudo["language_column"] = "language"
        return [*labelled, pseudo]


def plan_of(file: str | None, overrides: dict[str, Any]) -> Plan:
    """Return the plan in a YAML file, with overrides.

    Raises:
        UserError: an option is unknown, wrong or missing, or contradicts another one.
    """
    in_file = (read_yaml(file).get(TABLE) if file else None) or {}
    given = overrides.get(TABLE) or {}
    for one in (in_file, given):
        if not isinstance(one, dict):
            raise UserError(f"{TABLE}: {shown(one)}", "it must be a table", "write `key: value` lines below it")
    config = load_config(SelfTrainConfig, file, overrides | {TABLE: in_file | given})
    values = {one.name: getattr(config, one.name) for one in dataclasses.fields(FinetuneAsrConfig)}
    run = FinetuneAsrConfig(**values)
    if "eval" not in run.corpora:
        raise UserError("no eval_split", "nothing would decide whether a round is better", "set eval_split")
    if run.push_to_hub:
        do = "leave it out; `sft-speech push` uploads the best student afterwards"
        raise UserError("push_to_hub", "self-training uploads nothing", do)
    if run.streaming:
        raise UserError("streaming", "pseudo-labels are mixed with stored rows", "leave it out")
    own = {one.name for one in dataclasses.fields(RoundOptions)}
    table = config.self_train
    labelling, parsed = labelling_of({key: value for key, value in table.items() if key not in own}, own, run)
    plan = Plan(run, RoundOptions(**{key: table[key] for key in table if key in own}), labelling, parsed)
    plan.student(1, Path("student"), Path("pseudo.jsonl"))
    return plan


def labelling_of(table: dict[str, Any], own: set[str], run: FinetuneAsrConfig) -> tuple[list[str], argparse.Namespace]:
    """Return options of ``pseudo-label`` as words of a command line, and parsed and checked.

    Args:
        table: the options.
        own: further keys that the table may have, for advice.
        run: whose language is that of the recordings, if the table names none.

    Raises:
        UserError: there is no such option, or a value is wrong.
        SystemExit: a value has another type.
    """
    parser = Parser(prog=TABLE, allow_abbrev=False)
    verb.add_arguments(parser)
    known = {action.dest for action in parser._actions} - _SET_HERE
    for key in table:
        if key not in known:
            raise UserError(f"{TABLE}: {shown(key)}", "there is no such option", advice(shown(key), own | known))
    words = []
    for key, value in ({"language": run.language} | table).items():
        if value is None or value is False:
            continue
        words += [f"--{key}", *([] if value is True else map(str, value if isinstance(value, list) else [value]))]
    parsed = parser.parse(["teacher", "--source", "source", "-o", "labels.jsonl", *words])
    from sft_speech.tasks.asr.pseudo.label import check_weight

    check_weight(parsed.weight)
    verb.filters_of(parsed), decoding_of(parsed), generation_of(parsed)
    return words, parsed
