"""Fuzz a reader with hostile bytes, guided by coverage.

pip install 'sft_speech[fuzz]'
python scripts/fuzz.py READER [--seconds N] [--corpus DIR]

A failure ends the run: its traceback is printed, and its input is in DIR/finds. Inputs that reach new lines are kept in
DIR, and the next run starts from them. READER is a target in tests/fuzzing.py; the tests fuzz each for a second.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST = 65_536  # largest input, in bytes
MEGABYTES = 4096


def main() -> None:
    """Fuzz the reader named in the arguments."""
    import atheris

    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=["sft_speech", "yaml"]):
        fuzzing: Any = importlib.import_module("fuzzing")
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("reader", choices=fuzzing.TARGETS)
        parser.add_argument("--seconds", type=int, default=300, help="[%(default)s]")
        parser.add_argument("--corpus", metavar="DIR", help="inputs and failures [fuzz/READER in the temporary folder]")
        args = parser.parse_args()
        target = fuzzing.TARGETS[args.reader]
        with tempfile.TemporaryDirectory() as folder:  # import all code now, because later imports are not instrumented
            for seed in target.seeds():
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    target.read(seed, Path(own))
    fuzzing.quiet()
    corpus = Path(args.corpus or Path(tempfile.gettempdir(), "fuzz", args.reader))
    (corpus / "finds").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            target.read(data, Path(folder))

    options = {
        "max_total_time": args.seconds,
        "timeout": 4 * fuzzing.SECONDS,  # instrumented code is slow
        "max_len": LONGEST,
        "rss_limit_mb": MEGABYTES,
        "artifact_prefix": f"{corpus / 'finds'}/",
    }
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
