"""Check this machine before a long run: packages, devices, audio formats, disks, and the connection to the Hub.

Each problem is printed with a remedy. The exit code is 0 if nothing prevents a run, 1 otherwise.
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
    """Add the arguments of ``sft-speech doctor``."""
    parser.add_argument("--output_dir", default=".", help="output directory of future runs, whose disk is measured [.]")
    parser.add_argument("--offline", action="store_true", help="do not contact the Hub")
    parser.add_argument("--json", metavar="FILE", help="also write the findings as JSON")


def main(args: argparse.Namespace) -> int:
    """Print the findings and write the JSON file."""
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
    summary = [f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items() if count]
    print(f"\n{', '.join(summary) or 'nothing prevents a run'}")
    return 1 if counts["fault"] else 0


def examine(output_dir: str, offline: bool) -> Iterator[Finding]:
    """Yield every finding; a check that fails does not stop the others."""
    from sft_speech.tools.doctor import codecs, devices, machine, network, storage
    from sft_speech.tools.doctor.finding import Finding

    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")
    for check in (
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
            yield from check()
        except Exception as error:  # a broken machine may fail in unforeseen ways
            name = getattr(check, "__name__", "disks").replace("_", " ")
            yield Finding("fault", name, f"the check failed: {type(error).__name__}: {error}", "see the message")
