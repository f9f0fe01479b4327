"""What a large corpus costs before step 1: seconds, memory, bytes written.

    python scripts/benchmark_corpus.py --rows 300000 --clips SOME_FOLDER_OF_AUDIO

Makes a manifest in a temporary folder whose rows are files of their own, hard-linked to the clips given (or to clips of
noise), loads it without an index of headers and again with one, and selects the usable rows for an English vocabulary.
Each time in a process of its own. The files' content is in the system's memory by then: a disk adds what it takes to
read a few blocks of each file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "IT WAS THE BEST OF TIMES AND THE WORST OF TIMES SAID MISTER O'NEIL WHO HAD SEEN NEITHER".split()
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--clips", type=Path, help="folder of audio files; clips of noise where it isn't given")
    parser.add_argument("--measure", nargs=2, metavar=("MANIFEST", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_manifest(Path(folder), args.rows, args.clips)
        print(f"{args.rows:,} rows, manifest of {manifest.stat().st_size / 1e6:.0f} MB")
        for title in ("without an index", "with the index"):
            command = [sys.executable, __file__, "--measure", str(manifest), str(Path(folder, "cache"))]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            written = sum(path.stat().st_size for path in Path(folder, "cache").rglob("*") if path.is_file())
            print(
                f"{title}: imports {found['imports']:.1f} s, load_corpus {found['load']:.1f} s, "
                f"select_usable {found['select']:.1f} s; {found['rows']:,} rows, {found['hours']:,.0f} h; "
                f"peak memory {found['peak']:.0f} MB, of it imports {found['before']:.0f} MB; "
                f"{written / 1e6:.2f} MB on disk"
            )


def make_manifest(folder: Path, rows: int, clips: Path | None) -> Path:
    """A CSV of files, 1000 to a folder, each a hard link to one of the clips."""
    originals = copy_clips(folder / "clips", clips)
    lines = ["audio,text,speaker"]
    for row in range(rows):
        original = originals[row % len(originals)]
        name = f"audio/{row // 1000:04d}/{row:07d}{original.suffix}"
        if row % 1000 == 0:
            (folder / name).parent.mkdir(parents=True)
        os.link(original, folder / name)
        first = row % len(WORDS)
        number = f" {row % 97}" if row % 20 == 0 else ""  # numbers are spelt out, which costs more than letters
        lines.append(f"{name},{' '.join(WORDS[first:] + WORDS[:first])}{number},speaker-{row % 1000}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def copy_clips(folder: Path, clips: Path | None) -> list[Path]:
    """At least as many files as links need: a file system allows some ten thousand to one file."""
    import numpy as np
    import soundfile

    from sft_speech.corpora.rows import audio_files

    folder.mkdir()
    sources = list(audio_files(clips))[:64] if clips else []
    for number in range(64):
        if sources:
            source = Path(sources[number % len(sources)])
            (folder / f"{number}{source.suffix}").write_bytes(source.read_bytes())
        else:
            noise = np.random.default_rng(number).normal(0, 0.05, 16_000 * (5 + number % 11))
            soundfile.write(folder / f"{number}.flac", noise, 16_000)
    return sorted(folder.iterdir())


def measure(manifest: str, cache: str) -> dict[str, float]:
    began = time.perf_counter()
    import datasets  # noqa: F401

    from sft_speech.audio import conv_frames, samples_of
    from sft_speech.corpora import CorpusReport, load_corpus, select_usable
    from sft_speech.corpora.text import TranscriptNormalizer

    times, before = [time.perf_counter()], peak_megabytes()
    report = CorpusReport()
    corpus = load_corpus(manifest, name="train", report=report, cache_dir=cache)
    times.append(time.perf_counter())
    ids = {token: number for number, token in enumerate(VOCABULARY)} | {" ": VOCABULARY.index("|")}
    usable = select_usable(
        corpus,
        "train",
        report,
        min_seconds=0.1,
        max_seconds=30.0,
        normalize=TranscriptNormalizer.for_vocabulary(VOCABULARY),
        encode=lambda text: [ids[character] for character in text],
        frames_of=lambda s: conv_frames(samples_of(s, 16_000), (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
        max_missing_share=0.1,
    )
    times.append(time.perf_counter())
    return {
        "imports": times[0] - began,
        "load": times[1] - times[0],
        "select": times[2] - times[1],
        "rows": len(usable),
        "hours": report.to_dict()["train"]["kept"]["hours"],
        "before": before,
        "peak": peak_megabytes(),
    }


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
