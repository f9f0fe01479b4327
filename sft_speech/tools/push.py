"""Upload what a fine-tuning run has left to the Hub: model, processor, card, figures, plots.

Transcripts, ids of utterances, spoken samples and places on the disk stay at home. The card is written anew from the
files of the run, unless it was changed by hand; remove it to have it back. Given again after a break, it goes on:
what is there already isn't sent again, and nothing is seen before all of it is there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sft_speech.redact import redact

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech push``."""
    parser.add_argument("folder", metavar="DIR", help="output directory of a run that is done")
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME on the Hub; made where there is none")
    parser.add_argument("--private", action="store_true", help="make it a private one; one that is there has to be")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch, made where there is none [main]")
    parser.add_argument(
        "--with_checkpoints", action="store_true", help="and all checkpoint-N, optimizer state and all, to go on from"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="write the card, list what would go up and what not, send nothing"
    )


def main(args: argparse.Namespace) -> None:
    """Writes the card, then lists or uploads."""
    from sft_speech.hub.card import write_card
    from sft_speech.hub.files import at_home, check_finished, uploads
    from sft_speech.hub.repository import check_name, explained, hide_bars, open_repository
    from sft_speech.tasks import task_of

    folder = Path(args.folder)
    check_finished(folder)
    spec = task_of(folder)
    if args.dry_run:
        check_name(args.repository)
        refresh(write_card(folder, spec, args.repository), folder)
        files = uploads(folder, with_checkpoints=args.with_checkpoints)
        print("\n".join(listing([(file.path, file.size, "") for file in files])))
        where = "private" if args.private else "public, unless its owner has it otherwise"
        print(f"would go to {args.repository} ({where})")
        if stays := at_home(folder, files):
            print("\nstays at home:\n" + "\n".join(listing(stays)))
        return
    if not sys.stderr.isatty():
        hide_bars()
    repository = open_repository(args.repository, private=args.private, branch=args.revision)
    refresh(write_card(folder, spec, repository.id, ask_hub=True), folder)
    files = uploads(folder, with_checkpoints=args.with_checkpoints)
    with explained(f"push to {repository.id}", "then give the same command again: it goes on where it was"):
        repository.upload(files, f"Upload of {len(files)} files by sft_speech")
    print(redact(f"{len(files)} files, {readable(sum(file.size for file in files))}: {repository.url}"))


def refresh(ours: bool, folder: Path) -> None:
    """Says so where a card was left as it is."""
    if not ours:
        logger.warning("%s was changed by hand: it goes up as it is (remove it to have it anew)", folder / "README.md")


def listing(rows: Sequence[tuple[str, int, str]]) -> list[str]:
    """Lines of sizes, names and remarks, and their sum."""
    width = max((len(name) for name, _, _ in rows), default=0)
    lines = [f"{readable(size):>10}  {name:{width if why else 0}}{'  ' * bool(why)}{why}" for name, size, why in rows]
    return [*lines, f"{readable(sum(size for _, size, _ in rows)):>10}  in all"]


def readable(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
