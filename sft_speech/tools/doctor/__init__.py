"""Looks at this machine before a long run does: versions, devices, codecs, disks, the way to the Hub; says what is
wrong and what to do about it.

Exit code 0 where nothing stands in the way of a run, 1 where something does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sft_speech.files import check_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sft_speech.tools.doctor.finding import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default=".", help="where runs are to be written: its disk is measured [.]")
    parser.add_argument("--offline", action="store_true", help="leave the Hub alone")
    parser.add_argument("--json", metavar="FILE", help="write what was found as JSON too")


def main(args: argparse.Namespace) -> int:
    if args.json:
        check_output("--json", args.json)
    findings = []
    for finding in examine(args.output_dir, args.offline):
        print(finding.line(), flush=True)
        findings.append(finding)
    if args.json:
        found = [dataclasses.asdict(finding) for finding in findings]
        Path(args.json).write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    counts = {level: sum(finding.level == level for finding in findings) for level in ("fault", "note")}
    said = [f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items() if count]
    print(f"\n{', '.join(said) or 'nothing is in the way'}")
    return 1 if counts["fault"] else 0


def examine(output_dir: str, offline: bool) -> Iterator[Finding]:
    """Everything that is looked at, one after the other; none of it stops the rest."""
    from sft_speech.tools.doctor import codecs, devices, machine, network, storage
    from sft_speech.tools.doctor.finding import Finding

    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")
    for look in (
        machine.packages,
        machine.processors,
        machine.memory,
        machine.open_files,
        devices.torch_build,
        devices.training_step,
        devices.torchaudio,
        codecs.libsndfile,
        codecs.torchcodec,
        lambda: storage.disks(output_dir),
        *([] if offline else [network.hub]),
    ):
        try:
            yield from look()
        except Exception as error:  # a machine that is out of order may fail in ways that nobody thought of
            name = getattr(look, "__name__", "disks").replace("_", " ")
            yield Finding("fault", name, f"could not be looked at: {type(error).__name__}: {error}", "see the message")
