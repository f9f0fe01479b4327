"""Fine-tune several models, or one with several settings, on the same corpus; compare them and recommend one.

--config is the YAML of a run, to which every --vary adds a dimension of the grid. Or it is the YAML of a comparison:
`base:` (a YAML of a run, or its options), `vary:` (lists of values by key), `strategies:` (tables of options by name).
The candidates are chosen by their figure on eval_split; test_splits are only reported. The same command continues a
comparison that was stopped, and adds runs to it if the grid has grown. Writes compare.md, .csv, .html and .png,
result.json, and a directory of each candidate in runs/. Exit code 0: at least one candidate finished.

  sft-speech compare --config my.yaml --vary model=a,b --vary learning_rate=1e-5,5e-5 -o compared
  sft-speech compare --config my.yaml --vary 'model=a,{model: b, new_vocabulary: true}' --halve -o compared
  sft-speech compare --config my.yaml --strategy 'slow={learning_rate: 1e-5}' --strategy 'all={}' -o compared
  sft-speech compare --runs outputs/a outputs/b -o compared
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import shlex
import typing
from pathlib import Path
from typing import Any

from sft_speech.errors import RESUMABLE, Stopped, UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import from_command_line
from sft_speech.options.spec import TaskSpec
from sft_speech.tasks import TASKS, spec_of, specs
from sft_speech.tools.compare.candidates import MOST_RUNS, candidates_of, check_models
from sft_speech.tools.compare.grid import plan_of
from sft_speech.tools.compare.outcomes import Comparison
from sft_speech.training.lock import OutputLock

logger = logging.getLogger(__name__)

PROBE_UPDATES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech compare``, and any option of fine-tuning."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--task", choices=list(TASKS), default="asr", help="what the models are trained for [asr]")
    parser.add_argument("--config", metavar="FILE", help="YAML of a run or of a comparison; --KEY VALUE overrides it")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V,V",
        help="values of an option, in YAML: 0,8 or [a],[a, b],[]; a table with the key sets more options with it",
    )
    parser.add_argument(
        "--strategy",
        action="append",
        default=[],
        metavar="NAME={...}",
        help="a table of options, in YAML, that belong together; each strategy is combined with all other values",
    )
    parser.add_argument("--runs", nargs="+", metavar="DIR", help="compare these finished runs instead; nothing is run")
    add_output_argument(parser, "gets the result and all runs", required=True)
    parser.add_argument("--budget_updates", type=int, metavar="N", help="optimizer steps of each candidate")
    parser.add_argument(
        "--budget_minutes", type=float, metavar="M", help="minutes of training of each; its first steps are timed"
    )
    parser.add_argument(
        "--halve",
        action="store_true",
        help="train all for a share of their length, then the better half for twice as long, until two are left; each "
        "round trains from the beginning, with a whole schedule",
    )
    parser.add_argument(
        "--probe",
        type=int,
        nargs="?",
        const=PROBE_UPDATES,
        metavar="N",
        help=f"first train only the head of each model, for N steps [{PROBE_UPDATES}]; the better half goes on",
    )
    parser.add_argument("--gpus", metavar="0,1", help="train one candidate on each of these [all visible ones]")
    parser.add_argument(
        "--max_runs", type=int, default=MOST_RUNS, metavar="N", help=f"a larger grid is refused [{MOST_RUNS}]"
    )
    taken = parser._option_string_actions
    for key in dict.fromkeys(field.name for spec in specs() for field in dataclasses.fields(spec.config)):
        if f"--{key}" not in taken:
            parser.add_argument(f"--{key}", nargs="?", const="true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Train the candidates that are left, write the report, print the recommendation."""
    spec, folder, command = spec_of(args.task), Path(args.output), shlex.join(["sft-speech", *args.argv])
    base = options_of(args, spec)
    lock = OutputLock(folder)
    with contextlib.closing(lock):
        if args.runs:
            comparison = of_runs(args, base, folder, lock, command)
        else:
            try:
                comparison = compare(args, spec, base, folder, lock, command)
            except Stopped:
                logger.warning("stopped; the same command continues")
                return RESUMABLE
        return report(comparison, folder)


def options_of(args: argparse.Namespace, spec: TaskSpec) -> dict[str, Any]:
    """Return the options of fine-tuning on the command line.

    Raises:
        UserError: the task has no such option.
    """
    given, hints = vars(args), typing.get_type_hints(spec.config)
    for other in specs():
        for field in dataclasses.fields(other.config):
            if field.name in given and field.name not in hints:
                do = f"leave it out, or set --task {other.name}"
                raise UserError(f"--{field.name}", f"{spec.summary} has no such option", do)
    return {key: from_command_line(key, given[key], hint) for key, hint in hints.items() if key in given}


def of_runs(args: argparse.Namespace, base: dict[str, Any], folder: Path, lock: OutputLock, command: str) -> Comparison:
    """Return the comparison of finished runs."""
    given = {"--config": args.config, "--vary": args.vary, "--strategy": args.strategy, **base}
    if others := [name for name, value in given.items() if value]:
        raise UserError(f"--runs with {others[0]}", "finished runs are not trained", "give one of them")
    from sft_speech.tools.compare.runs import outcomes_of_runs

    comparison = outcomes_of_runs(args.runs, command)
    lock.hold()
    return comparison


def compare(
    args: argparse.Namespace, spec: TaskSpec, base: dict[str, Any], folder: Path, lock: OutputLock, command: str
) -> Comparison:
    """Train the candidates. Return the comparison."""
    plan = plan_of(spec, args.config, base, args.vary, args.strategy)
    candidates = candidates_of(plan, spec, folder, args.max_runs)
    from sft_speech.tools.compare.engine import Budget, Engine, check_rounds, probes_of
    from sft_speech.tools.compare.processes import Processes, visible_gpus
    from sft_speech.tools.compare.state import State

    budget = Budget(args.budget_updates, args.budget_minutes, args.halve, args.probe)
    budget.check(candidates)
    check_rounds(candidates, budget)
    probes = probes_of(candidates, budget.probe) if budget.probe else []
    check_models(candidates, spec)
    gpus = visible_gpus(args.gpus)
    lock.hold()
    state = State(folder, spec.name, command, candidates, budget.key())
    names = "\n  ".join(one.name for one in candidates)
    logger.info("%d candidates:\n  %s", len(candidates), names)
    first = candidates[0].config
    engine = Engine(spec, state, budget, Processes(gpus, logger.info), first)
    outcomes = engine.run(candidates, probes)
    splits = {role: split or role for role, (_, split) in first.corpora.items() if role != "train"}
    return Comparison(spec.name, outcomes, engine.metric, splits, state.content["base"], command)


def report(comparison: Comparison, folder: Path) -> int:
    """Write the report and print the recommendation. Return the exit code: 0 if a candidate finished."""
    from sft_speech.tools.compare.report import STEM, summary, write_report

    print(summary(write_report(comparison, folder)))
    print("\n".join(str(folder / f"{STEM}.{end}") for end in ("md", "csv", "html")))
    return 0 if any(one.status == "finished" for one in comparison.outcomes) else 1
