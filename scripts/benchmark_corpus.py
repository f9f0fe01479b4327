"""Measure the cost of a corpus by its size: seconds, memory and bytes up to the first optimizer step.

    python scripts/benchmark_corpus.py --hours 1 10 100 1000 --clips SOME_FOLDER_OF_AUDIO --json FIGURES.json

For each size (300 rows per hour), it makes a manifest in a temporary folder, with one file per row, hard-linked to one
of the given clips (or to clips of noise). It then measures, each in its own process:

- ``load_corpus`` without and with an index of headers, ``select_usable`` for an English vocabulary, and the plan of an
  epoch; then the bytes of the files that these leave beside the cache of ``datasets``: headers, rows and normalized
  transcripts;
- ``finetune-asr`` of a tiny model that finds these files: seconds from the start of the process to the first optimizer
  step, and the bytes written by then; the peak memory of two ranks (0, 1) at that step, and the anonymous memory of
  each rank with its two loader workers, in which shared pages are counted once;
- the same run resumed in its fourth epoch, from a checkpoint of step 2 that is relabeled as a later one.

The files are in the page cache by then; a cold disk adds the time to read a few blocks of each file. It needs Linux,
because memory is read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS_PER_HOUR = 300
BATCH_SECONDS = 160.0
LANGUAGE = "en"  # of the numbers, for all: other transcripts would be other files
WORDS = "IT WAS THE BEST OF TIMES AND THE WORST OF TIMES SAID MISTER O'NEIL WHO HAD SEEN NEITHER".split()
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
COLUMNS = {  # of the table: {figure: (title, format)}
    "rows": ("rows", "{:,.0f}"),
    "first": ("first scan, s", "{:.1f}"),
    "first_cpu": ("of it CPU, s", "{:.1f}"),
    "again": ("again, s", "{:.2f}"),
    "select": ("select, s", "{:.2f}"),
    "plan": ("plan, s", "{:.2f}"),
    "peak": ("peak, MB", "{:.0f}"),
    "files": ("files, MB", "{:.1f}"),
    "start": ("step 1, s", "{:.1f}"),
    "start_cpu": ("of it CPU, s", "{:.1f}"),
    "resume": ("resumed, s", "{:.1f}"),
    "resume_cpu": ("of it CPU, s", "{:.1f}"),
    "written": ("written, MB", "{:.1f}"),
    "peak_0": ("peak of 0, MB", "{}"),
    "peak_1": ("of 1, MB", "{}"),
    "own_0": ("own of 0, MB", "{}"),
    "own_1": ("of 1, MB", "{}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10, 100, 1000], help="sizes to measure")
    parser.add_argument("--clips", type=Path, help="folder of audio files [clips of noise]")
    parser.add_argument("--json", type=Path, help="write the figures to this file after each size")
    parser.add_argument("--measure", metavar="MANIFEST", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    print("| " + " | ".join(title for title, _ in COLUMNS.values()) + " |\n" + "| ---: " * len(COLUMNS) + "|")
    curve = []
    for hours in args.hours:
        with tempfile.TemporaryDirectory() as folder:
            curve.append(measure_size(Path(folder), round(hours * ROWS_PER_HOUR), args.clips))
        print("| " + " | ".join(form.format(curve[-1][key]) for key, (_, form) in COLUMNS.items()) + " |", flush=True)
        if args.json:
            args.json.write_text(json.dumps(curve, indent=1) + "\n")


def measure_size(folder: Path, rows: int, clips: Path | None) -> dict[str, Any]:
    """Return the figures of one size."""
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")  # for all child processes
    manifest = make_manifest(folder, rows, clips)
    command = [sys.executable, __file__, "--measure", str(manifest)]
    first, again = (json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(2))
    found = again | {"rows": rows, "peak_first": first["peak"]}
    found |= {"first": first["again"], "first_cpu": first["again_cpu"]}
    run = Run(folder, manifest, tiny_model(folder / "model"), steps=5 * again["steps"])
    before = bytes_below(folder)
    found["files"] = before / 1e6
    with run.started() as (pid, seconds):
        found |= {"start": seconds, "start_cpu": cpu_seconds(pid), "written": (bytes_below(folder) - before) / 1e6}
        checkpoint = run.checkpoint()
    run.make_later(checkpoint, round(3.5 * again["steps"]))
    with run.started("--resume_from_checkpoint") as (pid, seconds):
        found |= {"resume": seconds, "resume_cpu": cpu_seconds(pid)}
    run.output = folder / "two"
    with run.started(ranks=2) as (launcher, seconds):
        ranks = [[memory_of(pid) for pid in (rank, *children(rank))] for rank in children(launcher)]
    found["start_of_two"] = seconds
    for rank, processes in enumerate(ranks):
        found |= {f"peak_{rank}": processes[0]["peak"], f"own_{rank}": sum(process["own"] for process in processes)}
    return found


# ---- the corpus and the model ----


def make_manifest(folder: Path, rows: int, clips: Path | None) -> Path:
    """Write a CSV and its audio files, 1000 per folder, each a hard link to one of the clips."""
    originals = copy_clips(folder / "clips", clips, max(64, rows // 20_000))
    manifest = folder / "manifest.csv"
    with open(manifest, "w") as table:
        table.write("audio,text,speaker\n")
        for row in range(rows):
            original = originals[row % len(originals)]
            name = f"audio/{row // 1000:04d}/{row:07d}{original.suffix}"
            if row % 1000 == 0:
                (folder / name).parent.mkdir(parents=True)
            os.link(original, folder / name)
            first = row % len(WORDS)
            number = f" {row % 97}" if row % 20 == 0 else ""  # numbers are spelled out, which takes longer
            table.write(f"{name},{' '.join(WORDS[first:] + WORDS[:first])}{number},speaker-{row % 1000}\n")
    return manifest


def copy_clips(folder: Path, clips: Path | None, count: int) -> list[Path]:
    """Copy or make ``count`` clips: a file system allows only tens of thousands of links to a file."""
    import numpy as np
    import soundfile

    from sft_speech.corpora.rows import audio_files

    folder.mkdir()
    sources = list(audio_files(clips))[:count] if clips else []
    for number in range(count):
        if sources:
            source = Path(sources[number % len(sources)])
            (folder / f"{number}{source.suffix}").write_bytes(source.read_bytes())
        else:
            noise = np.random.default_rng(number).normal(0, 0.05, 16_000 * (5 + number % 11))
            soundfile.write(folder / f"{number}.flac", noise, 16_000)
    return sorted(folder.iterdir())


def tiny_model(folder: Path) -> Path:
    """Save a random wav2vec2 with about ten thousand parameters, and its processor."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(VOCABULARY)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 8, 4),
        conv_stride=(10, 8, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=1,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


# ---- the corpus in its own process ----


def measure(manifest: str) -> dict[str, Any]:
    """Load a corpus, select usable rows and plan an epoch; return seconds and memory."""
    import datasets  # noqa: F401
    import numpy as np

    from sft_speech.audio.units import conv_frames, samples_of
    from sft_speech.corpora import CorpusReport, load_corpus, select_usable
    from sft_speech.corpora.rows import column_of
    from sft_speech.text.normalize import TranscriptNormalizer
    from sft_speech.training.plan import BatchPlan

    before, began, times = memory_of("self")["peak"], time.process_time(), [time.perf_counter()]
    report = CorpusReport()
    corpus = load_corpus(manifest, name="train", report=report)
    cpu = time.process_time() - began
    times.append(time.perf_counter())
    ids = {token: number for number, token in enumerate(VOCABULARY)} | {" ": VOCABULARY.index("|")}
    usable = select_usable(
        corpus,
        "train",
        report,
        min_seconds=0.1,
        max_seconds=30.0,
        normalize=TranscriptNormalizer.for_vocabulary(VOCABULARY, LANGUAGE),
        encode=lambda text: [ids[character] for character in text],
        frames_of=lambda s: conv_frames(samples_of(s, 16_000), (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
        max_missing_share=0.1,
    )
    times.append(time.perf_counter())
    seconds = column_of(usable, "seconds").to_numpy()
    plan = BatchPlan(seconds, BATCH_SECONDS, batches=10**9)
    steps = len(plan.epoch(0))
    padding = plan.padding()
    plan.worst()
    next(iter(plan))
    times.append(time.perf_counter())
    some = np.random.default_rng(0).integers(len(usable), size=1000).tolist()
    for row in some:
        usable[row]
    times.append(time.perf_counter())
    names = ("again", "select", "plan", "thousand_rows")
    found = dict(zip(names, np.diff(times).tolist(), strict=True))
    found |= {"again_cpu": cpu, "usable": len(usable), "steps": steps, "padding": padding}
    return found | {"imports_peak": before, "peak": memory_of("self")["peak"]}


# ---- the command ----


class Run:
    """A fine-tuning run of ``steps`` steps that is killed after its first step."""

    def __init__(self, folder: Path, manifest: Path, model: Path, steps: int) -> None:
        self.folder, self.output, self.steps = folder, folder / "out", steps
        self.keys = {"model": model, "source": manifest, "max_batch_seconds": BATCH_SECONDS, "max_steps": steps}
        self.keys |= {"language": LANGUAGE, "logging_steps": 1, "eval_steps": 2, "mask_time_length": 2}
        self.keys["report_to"] = "none"

    @contextlib.contextmanager
    def started(self, *more: str, ranks: int = 1) -> Iterator[tuple[int, float]]:
        """Start the run; yield its process id and the seconds until its first step, then kill it."""
        script = str(Path(__file__).with_name("finetune_asr.py"))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
        keys = [part for key, value in self.keys.items() for part in (f"--{key}", str(value))]
        command = [sys.executable, *launcher, script, *keys, "--output_dir", str(self.output), *more]
        (self.folder / "tmp").mkdir(exist_ok=True)
        environment = os.environ | {"TMPDIR": str(self.folder / "tmp"), "HF_HUB_OFFLINE": "1"}
        environment["ACCELERATE_USE_CPU"] = "true"
        began = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        try:
            output = []
            for line in process.stderr or ():
                output.append(line)
                if line.startswith("step "):
                    yield process.pid, time.perf_counter() - began
                    break
            else:
                raise SystemExit("".join(output))
        finally:
            for pid in (process.pid, *descendants(process.pid)):  # torchrun gives every rank its own session
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def checkpoint(self) -> Path:
        """Wait until the first checkpoint of the run is complete, and return it."""
        checkpoint = self.output / "checkpoint-2"
        for _ in range(6000):
            if (checkpoint / "files.json").is_file():  # its last file
                return checkpoint
            time.sleep(0.1)
        raise SystemExit(f"{checkpoint} was not written within ten minutes")

    def make_later(self, checkpoint: Path, step: int) -> None:
        """Relabel a checkpoint as that of a later step."""
        file = checkpoint / "trainer_state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"global_step": step}))
        checkpoint.rename(checkpoint.with_name(f"checkpoint-{step}"))


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process."""
    try:
        own = children(pid)
    except OSError:  # it has ended
        return []
    return [*own, *(further for child in own for further in descendants(child))]


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used, without its children."""
    user, system = Path(f"/proc/{pid}/stat").read_text().split()[13:15]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int | str) -> dict[str, int]:
    """Return the peak resident size of a process and its proportional anonymous memory, in MB."""
    kilobytes = {}
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, *rest = line.split()
            if rest[-1:] == ["kB"]:
                kilobytes[name] = int(rest[0])
    return {"peak": kilobytes["VmHWM:"] // 1024, "own": kilobytes["Pss_Anon:"] // 1024}


def bytes_below(folder: Path) -> int:
    """Return the total size of the files of the runs: caches, output, temporary files."""
    places = (folder / name for name in ("cache", "out", "tmp"))
    return sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
