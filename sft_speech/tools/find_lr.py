"""Find the learning rate of a run by a range test: about a hundred updates at rates that grow from --low to --high.

The updates are those of the run: its batches, dropouts, optimizer and trained parameters. After each one the loss is
measured on the same batches, the first of the run, without dropout. Three files are written: find_lr.png, find_lr.csv
and find_lr.json. The model is not saved, and the output directory of the run is not touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.options.names import advice
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_config_arguments, config_from_arguments, read_yaml
from sft_speech.options.spec import TaskSpec
from sft_speech.tasks import TASKS, spec_of, specs

LOW, HIGH, UPDATES = 1e-7, 1.0, 100
LEAST_UPDATES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech find-lr``: those of a run of any task, and its own."""
    parser.add_argument(
        "--task", choices=list(TASKS), help="task of the run [the folder of the YAML, as in configs/asr/, or asr]"
    )
    for flag, default, what in (("--low", LOW, "first"), ("--high", HIGH, "last")):
        parser.add_argument(flag, type=float, default=default, metavar="R", help=f"{what} learning rate [{default:g}]")
    parser.add_argument("--updates", type=int, default=UPDATES, metavar="N", help=f"optimizer steps [{UPDATES}]")
    add_output_argument(parser, "folder of the three files [output_dir of the YAML, with -find-lr added]")
    add_config_arguments(parser, *(spec.config for spec in specs()), without=("output_dir",))


def main(args: argparse.Namespace) -> int:
    """Run the test, write the files, print the suggestion."""
    if not 0 < args.low < args.high:
        raise UserError(f"--low {args.low:g} --high {args.high:g}", "the rate must grow from above 0", "correct them")
    if args.updates < LEAST_UPDATES:
        why = f"a curve needs at least {LEAST_UPDATES} points"
        raise UserError(f"--updates {args.updates}", why, f"use {LEAST_UPDATES} or more")
    spec = spec_of(args.task or task_of_file(args.config))
    check_keys(args, spec)
    output = Path(args.output or folder_beside(args.config))
    config = config_from_arguments(spec.config, argparse.Namespace(**vars(args), output_dir="unused"))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"-o {output}", "it is a file", "choose a folder") from None
    from sft_speech.training.range_test import range_test

    curve = range_test(config, spec, args.low, args.high, args.updates)
    if curve is None:  # another process writes the files
        return 0
    title = f"{Path(config.model).name}, {config.optim}: loss of the same batches after each update"
    figures: dict[str, Any] = curve.to_dict() | {
        "task": spec.name,
        "model": config.model,
        "loss_unit": spec.card.loss_unit,
    }
    (output / "find_lr.png").write_bytes(curve.picture(title, spec.card.loss_unit))
    (output / "find_lr.csv").write_text(curve.table(), encoding="utf-8")
    (output / "find_lr.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{curve.words()}\n{output / 'find_lr.png'}")
    return 0


def task_of_file(file: str | None) -> str:
    """Return the name of the folder of a YAML if it is that of a task, otherwise "asr"."""
    folder = Path(file).absolute().parent.name if file else ""
    return folder if folder in TASKS else "asr"


def folder_beside(file: str | None) -> str:
    """Return a folder beside the output directory that a YAML names."""
    named = read_yaml(file).get("output_dir") if file else None
    return f"{str(named).rstrip('/')}-find-lr" if named else "find-lr"


def check_keys(args: argparse.Namespace, spec: TaskSpec) -> None:
    """Raise UserError if an option on the command line belongs to other tasks only."""
    own = [field.name for field in dataclasses.fields(spec.config)]
    others = {field.name for other in specs() for field in dataclasses.fields(other.config)}.difference(own)
    for key in sorted(others.intersection(vars(args))):
        raise UserError(f"--{key}", f"the task {spec.name} has no such option", f"{advice(key, own)}, or set --task")
