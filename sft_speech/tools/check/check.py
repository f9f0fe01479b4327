"""Look at a corpus before anything is trained on it: what it holds, what is likely wrong, what a run would drop.

Nothing is changed. Headers are read of all utterances, up to --max_hours are decoded; with --model they are
transcribed as well, and transcripts that have little to do with what was heard are listed. Exit code 0, whatever was
found, unless --strict.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.files import check_output

if TYPE_CHECKING:
    import numpy as np

    from sft_speech.options.config import FinetuneAsrConfig
    from sft_speech.tools.check.disputes import Heard
    from sft_speech.tools.check.findings import Report
    from sft_speech.tools.check.rows import Rows, Rules
    from sft_speech.tools.check.sound import Sound

logger = logging.getLogger(__name__)

MAX_HOURS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech check``."""
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="corpus: a folder, a manifest or a Hub id")
    parser.add_argument(
        "--split",
        action="append",
        metavar="SPLIT",
        help="a split to look at; give it several times [all that there are]; those named train... are trained on",
    )
    parser.add_argument("--model", metavar="MODEL", help="a recognizer that listens: it disputes transcripts")
    parser.add_argument("--config", metavar="FILE", help="YAML of a run: its corpora, and what it would drop of them")
    for key, what in (("min_seconds", "shorter"), ("max_seconds", "longer")):
        parser.add_argument(f"--{key}", type=float, metavar="S", help=f"{what} utterances would be dropped [as a run]")
    parser.add_argument("--source_config", metavar="NAME", help="configuration of a Hub dataset")
    for role in ("audio", "text", "speaker"):
        parser.add_argument(f"--{role}_column", metavar="NAME", help=f"column of the {role}, where it has another name")
    parser.add_argument(
        "--max_hours",
        type=float,
        default=MAX_HOURS,
        metavar="H",
        help=f"audio that is decoded (and heard); of a larger corpus a sample, of 0 nothing [{MAX_HOURS:g}]",
    )
    parser.add_argument("--device", help="of the model: cpu, cuda, cuda:1, ... [a GPU if there is one]")
    parser.add_argument("--json", metavar="FILE", help="write all of it as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures and players, all in one file")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where there are problems")


def main(args: argparse.Namespace) -> int:
    """Checks, prints the table, writes the files."""
    for flag, file in (("--json", args.json), ("--html", args.html)):
        if file:
            check_output(flag, file)
    if not args.max_hours >= 0:
        raise UserError(f"--max_hours {args.max_hours}", "it is no number of hours", "give 0 or more")
    checked = Checked.of(args)
    report = checked.report
    print(report.table())
    if args.json:
        text = json.dumps(report.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        Path(args.json).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    if args.html:
        from sft_speech.tools.check.page import page

        Path(args.html).write_text(page(checked), encoding="utf-8")
    for file in filter(None, (args.json, args.html)):
        print(file)
    return 1 if args.strict and report.count("problem") else 0


class Checked:
    """A corpus that was looked at: its report, and what pictures and players are made from.

    Attributes:
        rows: of all splits.
        spelt: their transcripts, as they would be learned.
        sound: None where nothing was decoded.
        heard: None without a model that can transcribe.
        report: what was found.
    """

    rows: Rows
    spelt: list[str]
    sound: Sound | None
    heard: Heard | None
    report: Report

    @classmethod
    def of(cls, args: argparse.Namespace) -> Checked:
        from sft_speech.tools.check import disputes, dropped, leaks, sound, texts
        from sft_speech.tools.check.findings import Report
        from sft_speech.tools.check.rows import load_rows

        self = cls()
        config, corpora, roles = intended(args)
        self.rows = rows = load_rows(config, corpora, roles)
        rules, listener = rules_and_listener(args, config, rows)
        rules.select(rows)
        self.spelt = spelt = [rules.normalize(text).text for text in rows.texts]
        picked = sound.chosen(rows, args.max_hours)
        self.sound = sound.listen(rows, picked) if len(picked) else None
        self.heard = heard(args, listener, rows, picked)
        self.report = report = Report(config.source, splits_section(rows), training=rows.report.to_dict())
        report.sections |= {
            "durations": sound.quantiles(rows.seconds),
            "speakers": leaks.section(rows),
            "text": texts.section(rows, spelt, rules.checkpoint is not None),
            "rules": {"said": rules.said, "min_seconds": config.min_seconds, "max_seconds": config.max_seconds},
        }
        report.findings = dropped.findings(rows, config.max_dropped_share)
        report.findings += [*leaks.findings(rows, spelt, self.sound), *texts.findings(rows, spelt)]
        if self.sound is not None and self.sound.measured:
            report.sections["audio"] = sound.section(self.sound)
            report.findings += sound.findings(rows, self.sound, rules.rate)
        if self.heard is not None:
            report.sections["model"] = disputes.section(self.heard, args.model)
            report.findings += disputes.findings(rows, self.heard)
        report.sort()
        return self


def intended(args: argparse.Namespace) -> tuple[FinetuneAsrConfig, dict[str, tuple[str, str | None]], list[str]]:
    """The run that is meant, its corpora by name, and whether each of them is for training or evaluation."""
    import dataclasses

    from sft_speech.options.config import FinetuneAsrConfig
    from sft_speech.options.settings import load_config, read_yaml
    from sft_speech.tools.check.rows import roles_of, splits_of_source

    keys = ("source", "source_config", "min_seconds", "max_seconds", "audio_column", "text_column", "speaker_column")
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if args.config is None:
        if args.source is None:
            raise UserError("no SOURCE", "there is nothing to look at", "give a corpus, or --config FILE")
        config = FinetuneAsrConfig(model=args.model or "none", output_dir="none", **given)
        corpora = splits_of_source(config.source, args.split, config.source_config, config.columns)
        return config, corpora, roles_of(list(corpora))
    if args.split:
        raise UserError("--split and --config", "the second names the splits of its run", "leave one of them out")
    # A preset may leave to the command line what a run can't do without.
    if args.model is not None and not read_yaml(args.config).get("model"):
        given["model"] = args.model
    config = load_config(FinetuneAsrConfig, args.config, given | {"output_dir": "none"})
    config = dataclasses.replace(config, streaming=False)
    corpora = config.corpora
    return config, corpora, ["train" if name == "train" else "evaluation" for name in corpora]


def rules_and_listener(args: argparse.Namespace, config: FinetuneAsrConfig, rows: Rows) -> tuple[Rules, Any]:
    """By which rows are dropped; and what listens, if anything does."""
    from sft_speech.tools.check.rows import rules_of_model, rules_without_model

    if args.config is None and args.model is None:
        return rules_without_model(config), None
    rules = rules_of_model(config, [text for text, train in zip(rows.texts, rows.training, strict=True) if train])
    if args.model != config.model:
        return rules, args.model
    assert rules.checkpoint is not None
    if rules.checkpoint.head_is_new:
        logger.warning("%s has no trained head: it can't listen, only its vocabulary is used", args.model)
        return rules, None
    return rules, rules.checkpoint


def heard(args: argparse.Namespace, listener: Any, rows: Rows, picked: np.ndarray) -> Heard | None:
    """What the model hears."""
    if listener is None or not len(picked):
        return None
    from sft_speech.tasks.asr.evaluate import progress_bar
    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tools.check.disputes import hear

    transcriber = Transcriber(listener, device=args.device)
    spelt = [transcriber.checkpoint.normalizer(text).text for text in rows.texts]
    with progress_bar(rows.seconds[picked].tolist()) as bar:
        return hear(transcriber, rows, spelt, picked, bar.update)


def splits_section(rows: Rows) -> dict[str, dict[str, Any]]:
    """The part ``splits`` of the report."""
    told, found = rows.report.to_dict(), {}
    for number, (name, role) in enumerate(zip(rows.names, rows.roles, strict=True)):
        mine = rows.split == number
        speakers = {speaker for speaker, own in zip(rows.speakers, mine, strict=True) if own and speaker}
        found[name] = {
            "role": role,
            "utterances": told[name]["kept"]["rows"] + told[name]["dropped"]["rows"],
            "hours": float(rows.seconds[mine].sum() / 3600),
            "kept": told[name]["kept"]["rows"],
            "kept_hours": told[name]["kept"]["hours"],
            "speakers": len(speakers),
        }
    return found
