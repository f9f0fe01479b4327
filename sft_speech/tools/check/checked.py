"""Load the rows, measure and transcribe the recordings, and collect the findings."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.options.settings import load_config, read_yaml
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tools.check import disputes, dropped, leaks, sound, texts
from sft_speech.tools.check.findings import Report
from sft_speech.tools.check.rows import (
    Rows,
    Rules,
    load_rows,
    roles_of,
    rules_of_model,
    rules_without_model,
    splits_of_source,
)

if TYPE_CHECKING:
    import numpy as np

    from sft_speech.tasks.asr.recognizer import Recognizer

logger = logging.getLogger(__name__)


@dataclass
class Checked:
    """A checked corpus: its report, and the data for the figures and players of the page.

    Args:
        rows: the rows of all splits.
        normalized: their transcripts, normalized as for training.
        recordings: their measurements; None if nothing was decoded.
        recognized: their hypotheses; None without a model that can transcribe.
        report: the findings.
    """

    rows: Rows
    normalized: list[str]
    recordings: sound.Recordings | None
    recognized: disputes.Recognized | None
    report: Report


def examine(args: argparse.Namespace) -> Checked:
    """Check the corpus that the arguments of ``sft-speech check`` name.

    Raises:
        UserError: the arguments exclude each other, or the corpus, split or model does not exist.
    """
    config, corpora, roles = planned_run(args)
    rows = load_rows(config, corpora, roles)
    rules, recognizer = rules_and_recognizer(args, config, rows)
    rules.select(rows)
    normalized = [rules.normalize(text).text for text in rows.texts]
    picked = sound.sample(rows, args.max_hours)
    recordings = sound.measure_rows(rows, picked) if len(picked) else None
    recognized = recognize(args, recognizer, rows, picked)
    report = Report(config.source, splits_section(rows), training=rows.report.to_dict())
    report.sections |= {
        "durations": sound.quantiles(rows.seconds),
        "speakers": leaks.section(rows),
        "text": texts.section(rows, normalized, rules.checkpoint is not None),
        "rules": {
            "said": rules.description,
            "min_seconds": config.min_seconds,
            "max_seconds": config.max_seconds,
        },
    }
    report.findings = dropped.findings(rows, config.max_dropped_share)
    report.findings += leaks.findings(rows, normalized, recordings)
    report.findings += texts.findings(rows, normalized, rules.normalize)
    if recordings is not None and recordings.measured:
        report.sections["audio"] = sound.section(recordings)
        report.findings += sound.findings(rows, recordings, rules.rate)
    if recognized is not None:
        report.sections["model"] = disputes.section(recognized, args.model)
        report.findings += disputes.findings(rows, recognized)
    report.sort()
    return Checked(rows, normalized, recordings, recognized, report)


def planned_run(args: argparse.Namespace) -> tuple[FinetuneAsrConfig, dict[str, tuple[str, str | None]], list[str]]:
    """Return the configuration of the run, its corpora by name, and the role of each: "train" or "evaluation"."""
    keys = ("source", "source_config", "min_seconds", "max_seconds", "audio_column", "text_column", "speaker_column")
    given = {key: getattr(args, key) for key in (*keys, *"channel language target_lang".split())}
    given = {key: value for key, value in given.items() if value is not None}
    if args.config is None:
        if args.source is None:
            raise UserError("no SOURCE", "there is nothing to check", "give a corpus or --config FILE")
        config = FinetuneAsrConfig(model=args.model or "none", output_dir="none", **given)
        corpora = splits_of_source(config.source, args.split, config.source_config, config.columns)
        return config, corpora, roles_of(list(corpora))
    if args.split:
        raise UserError("--split and --config", "the configuration names the splits", "leave one of them out")
    # A preset may leave the required options to the command line.
    if args.model is not None and not read_yaml(args.config).get("model"):
        given["model"] = args.model
    config = load_config(FinetuneAsrConfig, args.config, given | {"output_dir": "none"})
    if config.sources:
        first = config.sources[0]
        command = shlex.join(
            ["sft-speech", "check", first["source"], *(["--split", first["split"]] * ("split" in first))]
        )
        raise UserError("--config with sources", "one corpus is checked at a time", f"for the first: {command}")
    config = dataclasses.replace(config, streaming=False)
    corpora = config.corpora
    return config, corpora, ["train" if name == "train" else "evaluation" for name in corpora]


def rules_and_recognizer(
    args: argparse.Namespace, config: FinetuneAsrConfig, rows: Rows
) -> tuple[Rules, str | Recognizer | None]:
    """Return the rules for dropping rows, and the model that transcribes, if there is one."""
    if args.config is None and args.model is None:
        return rules_without_model(config), None
    rules = rules_of_model(config, [text for text, train in zip(rows.texts, rows.training, strict=True) if train])
    if args.model != config.model:
        return rules, args.model
    assert rules.checkpoint is not None
    if rules.checkpoint.head_is_new:
        logger.warning("%s has no trained head: it cannot transcribe; only its vocabulary is used", args.model)
        return rules, None
    return rules, rules.checkpoint


def recognize(
    args: argparse.Namespace, recognizer: str | Recognizer | None, rows: Rows, picked: np.ndarray
) -> disputes.Recognized | None:
    """Transcribe the picked rows; return None without a recognizer."""
    if recognizer is None or not len(picked):
        return None
    from sft_speech.tasks.asr.evaluate import progress_bar
    from sft_speech.tasks.asr.generation import Generation
    from sft_speech.tasks.asr.transcriber import Transcriber

    generation = Generation(language=args.language)
    transcriber = Transcriber(recognizer, args.device, generation=generation, target_lang=args.target_lang)
    with progress_bar(rows.seconds[picked].tolist()) as bar:
        return disputes.recognize_rows(transcriber, rows, picked, bar.update)


def splits_section(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the section ``splits`` of the report."""
    counts, found = rows.report.to_dict(), {}
    for number, (name, role) in enumerate(zip(rows.names, rows.roles, strict=True)):
        in_split = rows.split == number
        speakers = {speaker for speaker, own in zip(rows.speakers, in_split, strict=True) if own and speaker}
        kept = counts[name]["kept"]
        found[name] = {
            "role": role,
            "utterances": kept["rows"] + counts[name]["dropped"]["rows"],
            "hours": float(rows.seconds[in_split].sum() / 3600),
            "kept": kept["rows"],
            "kept_hours": kept["hours"],
            "speakers": len(speakers),
        }
    return found
