"""Upload the result of a fine-tuning run to the Hub: model, processor, card, figures, plots.

Transcripts, ids of utterances, spoken samples, local paths and evaluations that do not belong to the run are not
uploaded. The card is rewritten from the files of the run, unless you edited it; delete it to have it rewritten. Repeat
the command after an interruption: files that have arrived are not sent again, and nothing is visible until all are
there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sft_speech.options.spec import TaskSpec
from sft_speech.redact import redact
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from sft_speech.hub.files import Upload

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech push``."""
    parser.add_argument("folder", metavar="DIR", help="output directory of a finished run")
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME on the Hub; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it private; an existing one must be private")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch, created if it does not exist [main]")
    parser.add_argument(
        "--with_checkpoints", action="store_true", help="also upload every checkpoint-N, with its optimizer state"
    )
    parser.add_argument(
        "--with_evaluations",
        action="store_true",
        help="also upload and show evaluation/*.json of corpora or splits that the run did not evaluate",
    )
    parser.add_argument(
        "--adapter_only", action="store_true", help="upload only the LoRA adapter of the run, with a card of its own"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="write the card, and list the files that would and would not be uploaded"
    )


def main(args: argparse.Namespace) -> None:
    """Write the card, then upload or list the files."""
    from sft_speech.hub.files import at_home, check_finished
    from sft_speech.hub.repository import check_name, explained, hide_bars, open_repository
    from sft_speech.tasks import task_of

    folder = Path(args.folder)
    check_finished(folder)
    spec = task_of(folder)
    if args.dry_run:
        check_name(args.repository)
        name = args.repository
    else:
        if not sys.stderr.isatty():
            hide_bars()
        repository = open_repository(args.repository, private=args.private, branch=args.revision)
        name = repository.id
    files = files_to_upload(folder, spec, name, args)
    if args.dry_run:
        print("\n".join(listing([(file.path, file.size, "") for file in files])))
        where = "private" if args.private else "public, unless its owner's default is private"
        print(f"would go to {name} ({where})")
        if stays := at_home(folder, files):
            print("\nnot uploaded:\n" + "\n".join(listing(stays)))
        return
    with explained(f"push to {name}", "then repeat the same command: it continues where it stopped"):
        repository.upload(files, f"Upload of {counted(len(files), 'file')} by sft_speech")
    print(redact(f"{counted(len(files), 'file')}, {readable(sum(file.size for file in files))}: {repository.url}"))


def files_to_upload(folder: Path, spec: TaskSpec, name: str, args: argparse.Namespace) -> list[Upload]:
    """Write the card, and return the files to upload; with ``--adapter_only`` the directory keeps its own card."""
    from sft_speech.hub.card import write_card
    from sft_speech.hub.files import adapter_uploads, uploads

    if args.adapter_only:
        return adapter_uploads(folder, spec, name, ask_hub=not args.dry_run)
    if not write_card(folder, spec, name, ask_hub=not args.dry_run, all_evaluations=args.with_evaluations):
        logger.warning("%s was edited and is uploaded unchanged (delete it to have it rewritten)", folder / "README.md")
    return uploads(folder, spec, with_checkpoints=args.with_checkpoints, with_evaluations=args.with_evaluations)


def listing(rows: Sequence[tuple[str, int, str]]) -> list[str]:
    """Return a line of size, name and remark for each row, and a line with the total size."""
    width = max((len(name) for name, _, _ in rows), default=0)
    lines = [f"{readable(size):>10}  {name:{width if why else 0}}{'  ' * bool(why)}{why}" for name, size, why in rows]
    return [*lines, f"{readable(sum(size for _, size, _ in rows)):>10}  in all"]


def readable(size: float) -> str:
    """Return a number of bytes in a suitable unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
