"""Make the report of a run, or put several runs side by side.

Of one directory, its report.html is written again, from the files of the run. Of several, -o names the page that shows
their figures, curves, options and errors side by side, and the utterances in which they differ most. The recordings are
read from the corpora of the runs; without them, the page has no players.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sft_speech.errors import UserError
from sft_speech.files import check_output, write_whole

if TYPE_CHECKING:
    import datasets

    from sft_speech.hub.card import Run
    from sft_speech.report.page import Rows

logger = logging.getLogger(__name__)

MOST = 8  # runs: the page has as many colors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech report``."""
    parser.add_argument("folders", metavar="DIR", nargs="+", help="output directory of a run, finished or not")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page [report.html of a single DIR]")


def main(args: argparse.Namespace) -> None:
    """Write the page; print its path.

    Raises:
        UserError: a directory holds no run, or the runs cannot be compared.
    """
    from sft_speech.hub.card import REPORT
    from sft_speech.report.evaluated import run_of
    from sft_speech.report.page import write_report
    from sft_speech.tasks import task_of
    from sft_speech.tools.report.side_by_side import page

    folders = list(dict.fromkeys(args.folders))
    if len(folders) > MOST:
        raise UserError(f"{len(folders)} runs", f"the page shows at most {MOST}", "leave out some of them")
    if len(folders) > 1 and not args.output:
        do = f"name it: sft-speech report {' '.join(folders)} -o runs.html"
        raise UserError(f"{len(folders)} runs", "their page needs a place", do)
    path = Path(args.output or Path(folders[0]) / REPORT)
    runs = [run_of(Path(folder), task_of) for folder in folders]
    check_output("-o", str(path))
    tasks = {run.spec.name for run in runs}
    if len(tasks) > 1:
        raise UserError(" ".join(folders), f"they are of different tasks ({', '.join(sorted(tasks))})", "give one task")
    if len(runs) == 1:
        write_report(runs[0], corpora_of(runs[0]), path)
    else:
        write_whole(path, page(runs, [corpora_of(run) for run in runs]))
    print(path)


def corpora_of(run: Run) -> Rows:
    """Return a function that reads the rows of a role again; a corpus that is not there is a warning."""

    def rows(role: str) -> datasets.Dataset | None:
        from sft_speech.corpora.report import CorpusReport
        from sft_speech.options.sources import IN_MEMORY
        from sft_speech.training.corpora import load_rows

        place = run.config.place(role)
        try:
            if place.source == IN_MEMORY:
                raise UserError(role, "the run got its rows from Python", "")
            return load_rows(place, role, None, CorpusReport())
        except UserError as error:
            why = str(error).splitlines()[0]
            logger.warning("%s, %s: no players, since its recordings cannot be read (%s)", run.folder, role, why)
            return None

    return rows
