"""Write a model for another runtime, and measure how far it agrees with the original.

onnx: model.onnx for ONNX Runtime (CTC models, classifiers). openvino: the same for OpenVINO. ctranslate2: for
CTranslate2 and faster-whisper (Whisper; wav2vec 2.0 with layer norm, such as XLS-R). ggml-ready: a directory for the
converter of whisper.cpp, with the command. Both models recognize the utterances of --source, and README.md and
export_report.json have the figures. transcribe, evaluate and classify take the directory like any model.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.arguments import add_corpus_arguments, rows_of_arguments
from sft_speech.errors import UserError
from sft_speech.files import new_folder
from sft_speech.options.parser import OUTPUT
from sft_speech.options.settings import add_pickle_argument
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.tools.export.targets import TARGETS

if TYPE_CHECKING:
    from sft_speech.tools.export.targets import Target

logger = logging.getLogger(__name__)

REPORT, PAGE = "export_report.json", "README.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech export``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    parser.add_argument("--to", required=True, choices=tuple(TARGETS), help="runtime")
    parser.add_argument("--int8", action="store_true", help="round weights to 8 bits: onnx and ctranslate2")
    parser.add_argument(*OUTPUT, dest="output", metavar="DIR", required=True, help="directory to make")
    add_corpus_arguments(parser, required=False, what="compare on")
    parser.add_argument("--label_column", metavar="NAME", help="column of the label, of classifiers")
    add_language_arguments(parser)
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Export the model; print how far it agrees with the original.

    Raises:
        UserError: the model cannot be exported to this runtime, or the output exists.
    """
    target = TARGETS[args.to]
    check_arguments(args, target)
    task = check_model(args, target)
    from sft_speech.hub.published import published

    with new_folder(Path(args.output)) as part:
        checkpoint = load_original(args, task)
        if target.measured:
            from sft_speech.tools.export.rows import rows_for

            rows, split = rows_for(task, checkpoint, *rows_of_arguments(args, **label_of(args, task)))
        with tempfile.TemporaryDirectory(dir=part.parent) as plain:
            checkpoint.save(plain)
            target.write(checkpoint, Path(plain), part, args.int8)
        report: dict[str, Any] = {"model": published(args.model), "task": task, "to": args.to}
        report["int8"] = args.int8
        if target.measured:
            from sft_speech.tools.export.parity import measured, warn

            report |= measured(task, checkpoint, part, rows, target.files)
            report |= {"source": published(args.source), "split": split}
            warn(report)
        from sft_speech.tools.export.page import lines, page

        (part / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (part / PAGE).write_text(page(report, target, args.output), encoding="utf-8")
    print("\n".join(lines(report, target, args.output)))


def check_arguments(args: argparse.Namespace, target: Target) -> None:
    """Raise UserError if the options do not suit the target."""
    if args.int8 and target.no_int8:
        raise UserError(f"--int8 --to {args.to}", *target.no_int8)
    if target.measured and args.source is None:
        do = "add --source CORPUS --split SPLIT: a few dozen utterances are enough"
        raise UserError(f"--to {args.to}", "there is no speech to compare both models on", do)
    if Path(args.output).exists():
        raise UserError(args.output, "it already exists", "remove it, or choose another name")


def check_model(args: argparse.Namespace, target: Target) -> str:
    """Return the name of the model's task, before the model is loaded.

    Raises:
        UserError: the target does not take the model, or its packages are not installed.
    """
    from sft_speech.models.exported import check_installed, exported_format
    from sft_speech.models.load import read_config
    from sft_speech.tasks import task_of

    if exported_format(args.model):
        raise UserError(args.model, "it has been exported already", "give the model that it was made of")
    spec = task_of(args.model)
    if spec.name not in ("asr", "classification"):
        why = f"its task is {spec.summary}, for which there is no export"
        raise UserError(args.model, why, "give a recognizer or a classifier")
    if refused := target.refused(read_config(args.model), spec.name):
        raise UserError(f"{args.model} --to {args.to}", *refused)
    for package in target.packages:
        check_installed(package, f"--to {args.to}")
    return spec.name


def load_original(args: argparse.Namespace, task: str) -> Any:
    """Load the model that is exported.

    Raises:
        UserError: it cannot be loaded, or is not trained.
    """
    languages = {"language": args.language, "target_lang": args.target_lang}
    if task == "classification":
        for option, given in languages.items():
            if given:
                raise UserError(f"--{option} {given}", f"{args.model} is a classifier", "leave it out")
        from sft_speech.tasks.classification.checkpoint import load_classifier

        return load_classifier(args.model, args.allow_pickle)
    from sft_speech.tasks.asr.loading import load_checkpoint
    from sft_speech.tasks.asr.recognizer import check_trained

    checkpoint = load_checkpoint(args.model, allow_pickle=args.allow_pickle, **languages)
    check_trained(checkpoint, args.model)
    return checkpoint


def label_of(args: argparse.Namespace, task: str) -> dict[str, str | None]:
    """Return the column of the label, of classifiers."""
    if task != "classification":
        return {}
    from sft_speech.tasks.classification.evaluate import label_column_of

    return {"label": args.label_column or label_column_of(args.model)}
