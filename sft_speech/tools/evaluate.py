"""Evaluate a model on a corpus.

Writes SPLIT.jsonl (one line per utterance) and SPLIT.json (the figures). The figures depend on the model's task.
"""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

from sft_speech.corpora.arguments import add_corpus_arguments
from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_dtype_argument, add_pickle_argument
from sft_speech.options.spec import TaskSpec
from sft_speech.tasks import specs, task_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate``: the common ones, then those of each task."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    add_corpus_arguments(parser)
    add_output_argument(parser, "gets evaluation/ [MODEL-evaluation; evaluation for a Hub id]")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_dtype_argument(parser)
    add_pickle_argument(parser)
    for spec in specs():
        if spec.evaluate is not None:
            _module(spec).add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Run the evaluation of the model's task.

    Raises:
        UserError: another verb evaluates this task.
    """
    spec = task_of(args.model)
    if spec.evaluate is None:
        raise UserError(args.model, f"its task is {spec.summary}", f"sft-speech evaluate-{spec.name} evaluates it")
    _module(spec).main(args)


def _module(spec: TaskSpec) -> ModuleType:
    return importlib.import_module(str(spec.evaluate))
