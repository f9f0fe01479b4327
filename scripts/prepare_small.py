"""Write the corpus of the embedded recognizer: real and synthetic speech, decoded and augmented once.

python scripts/prepare_small.py --real data/LibriSpeech train-clean-100 --text SENTENCES --output data/small

The folder holds WAV files of 16 kHz and a ``metadata.csv`` whose column ``split`` names the parts: ``NAME-0`` has the
recordings as they are, ``NAME-1`` and further ones augmented versions of them (speed, vocal tract, spectrum, noise,
room), and ``synthetic`` the voices of espeak-ng that read sentences of --text. Each part is listed once it is complete,
so that training can begin before the others are; parts that are listed already are skipped. All draws depend on (seed,
part, index) alone.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pretrain_small import RATE, SyntheticSpeech, normalize

COLUMNS = ["file_name", "text", "speaker", "split"]
Clip = tuple[str, np.ndarray, str, str]  # name, waveform (S,), transcript, speaker


def recordings(corpora: list[list[str]], left_out: list[str], part: str, seed: int, augmented: bool) -> Iterator[Clip]:
    """Yield the clips of the corpora, without those of some speakers.

    Args:
        corpora: pairs of a source and a split; "" is all of it.
    """
    from sft_speech.audio import augment
    from sft_speech.audio.read import read_row
    from sft_speech.corpora import load_corpus

    for source, split in corpora:
        for row in load_corpus(source, split or None):
            name = f"{row['id']}".replace("/", "_")
            if row["speaker"] in left_out or any(name.startswith(f"{one}-") for one in left_out):
                continue
            waveform = read_row(row, RATE)
            if augmented:
                rng = np.random.default_rng((seed, zlib.crc32(f"{part}/{name}".encode())))
                waveform = augment.standard(waveform, RATE, rng)
            yield name, waveform, normalize(row["text"]), row["speaker"]


def synthetic(sentences: list[str], hours: float, seed: int) -> Iterator[Clip]:
    """Yield so many hours of synthetic speech."""
    speech = SyntheticSpeech(sentences, seed, Path(), recorded=False)
    index, left = 0, hours * 3600 * RATE
    while left > 0:
        waveform, text = speech[index]
        yield f"{index:06d}", waveform, text, "espeak-ng"
        index, left = index + 1, left - len(waveform)


def write_part(output: Path, part: str, clips: Iterator[Clip]) -> None:
    """Write the clips of a part, then list them in the table."""
    import soundfile

    (output / part).mkdir(parents=True, exist_ok=True)
    rows, seconds = [], 0.0
    for name, waveform, text, speaker in clips:
        loudest = max(1.0, float(np.abs(waveform).max(initial=0)) / 0.99)  # augmented clips may exceed 16 bits
        file = f"{part}/{name}.wav"
        soundfile.write(output / file, waveform / loudest, RATE, subtype="PCM_16")
        rows.append([file, text, speaker, part])
        seconds += len(waveform) / RATE
    table = output / "metadata.csv"
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([COLUMNS, *rows] if new else rows)
    print(f"{part}: {len(rows)} clips, {seconds / 3600:.2f} h", flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs=2, action="append", default=[], metavar=("SOURCE", "SPLIT"))
    parser.add_argument("--name", default="real", help="of the parts made from --real [real]")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SPEAKER")
    parser.add_argument("--versions", type=int, default=2, help="augmented versions of each recording [2]")
    parser.add_argument("--text", type=Path, help="a file with one sentence per line, or id|sentence")
    parser.add_argument("--synthetic-hours", type=float, default=4.0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the parts that are not there yet."""
    table, done = args.output / "metadata.csv", set()
    if table.exists():
        with table.open(newline="", encoding="utf-8") as lines:
            done = {row["split"] for row in csv.DictReader(lines)}
    for version in range(1 + args.versions):
        if args.real and (part := f"{args.name}-{version}") not in done:
            clips = recordings(args.real, args.leave_out, part, args.seed, augmented=version > 0)
            write_part(args.output, part, clips)
        if version == 0 and args.text and "synthetic" not in done:
            lines = [normalize(line.split("|")[-1]) for line in args.text.read_text(encoding="utf-8").splitlines()]
            # every fiftieth sentence is left for tests, as in pretrain_small.py
            sentences = [line for number, line in enumerate(lines) if line and number % 50]
            write_part(args.output, "synthetic", synthetic(sentences, args.synthetic_hours, args.seed))


if __name__ == "__main__":
    main(make_parser().parse_args())
