"""What a corpus costs against its size: seconds, memory and bytes up to the first optimizer step.

    python scripts/benchmark_corpus.py --hours 1 10 100 1000 --clips SOME_FOLDER_OF_AUDIO --json FIGURES.json

For each size (300 rows to an hour) it makes a manifest in a temporary folder whose rows are files of their own,
hard-linked to the clips given (or to clips of noise), and measures, each in a process of its own:

- ``load_corpus`` without an index of headers and with one, ``select_usable`` for an English vocabulary, the plan of an
  epoch with all that a run asks of it;
- ``finetune-asr`` of a tiny model, the index there already: from the start of the process to the first optimizer step,
  what it has written by then; and the memory of two ranks (0, 1) alive at once: the peak of each, and what it has of
  its own at the first step, that is, in no file: with its two loader workers, pages that they share counted once;
- the same run resumed in its fourth epoch. Its checkpoint is one of step 2 that says it is of a later one.

The files' content is in the system's memory by then: a disk adds what it takes to read a few blocks of each file.
Needs Linux: memory is read from /proc.
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
WORDS = "IT WAS THE BEST OF TIMES AND THE WORST OF TIMES SAID MISTER O'NEIL WHO HAD SEEN NEITHER".split()
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
COLUMNS = {  # of the table: a figure, its title, its format
    "rows": ("rows", "{:,.0f}"),
    "first": ("first scan, s", "{:.1f}"),
    "again": ("again, s", "{:.2f}"),
    "select": ("select, s", "{:.2f}"),
    "plan": ("plan, s", "{:.2f}"),
    "peak": ("peak, MB", "{:.0f}"),
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
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10, 100, 1000], help="sizes")
    parser.add_argument("--clips", type=Path, help="folder of audio files; clips of noise where it isn't given")
    parser.add_argument("--json", type=Path, help="write the figures there, after each size")
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
    """The figures of one size."""
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")  # of all that is started here
    manifest = make_manifest(folder, rows, clips)
    command = [sys.executable, __file__, "--measure", str(manifest)]
    first, again = (json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(2))
    found = again | {"rows": rows, "first": first["again"], "peak_first": first["peak"]}
    run = Run(folder, manifest, tiny_model(folder / "model"), steps=5 * again["steps"])
    before = bytes_below(folder)
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


# ---- what is measured upon ----


def make_manifest(folder: Path, rows: int, clips: Path | None) -> Path:
    """A CSV of files, 1000 to a folder, each a hard link to one of the clips."""
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
            number = f" {row % 97}" if row % 20 == 0 else ""  # numbers are spelt out, which costs more than letters
            table.write(f"{name},{' '.join(WORDS[first:] + WORDS[:first])}{number},speaker-{row % 1000}\n")
    return manifest


def copy_clips(folder: Path, clips: Path | None, count: int) -> list[Path]:
    """As many files as links need: a file system allows some ten thousand to one file."""
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
    """A random wav2vec2 of some ten thousand parameters, with its processor."""
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


# ---- the corpus in a process of its own ----


def measure(manifest: str) -> dict[str, Any]:
    import datasets  # noqa: F401
    import numpy as np

    from sft_speech.audio.read import conv_frames, samples_of
    from sft_speech.corpora import CorpusReport, load_corpus, select_usable
    from sft_speech.corpora.rows import column_of
    from sft_speech.text.normalize import TranscriptNormalizer
    from sft_speech.training.plan import BatchPlan

    before, times = memory_of("self")["peak"], [time.perf_counter()]
    report = CorpusReport()
    corpus = load_corpus(manifest, name="train", report=report)
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
    found |= {"usable": len(usable), "steps": steps, "padding": padding}
    return found | {"imports_peak": before, "peak": memory_of("self")["peak"]}


# ---- the command ----


class Run:
    """A fine-tuning of ``steps`` steps, ended after the first ones."""

    def __init__(self, folder: Path, manifest: Path, model: Path, steps: int) -> None:
        self.folder, self.output, self.steps = folder, folder / "out", steps
        self.keys = {"model": model, "source": manifest, "max_batch_seconds": BATCH_SECONDS, "max_steps": steps}
        self.keys |= {"logging_steps": 1, "eval_steps": 2, "mask_time_length": 2, "report_to": "none"}

    @contextlib.contextmanager
    def started(self, *more: str, ranks: int = 1) -> Iterator[tuple[int, float]]:
        """The run in its first step: its process, and how many seconds it took to get there."""
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
            said = []
            for line in process.stderr or ():
                said.append(line)
                if line.startswith("step "):
                    yield process.pid, time.perf_counter() - began
                    break
            else:
                raise SystemExit("".join(said))
        finally:
            for pid in (process.pid, *descendants(process.pid)):  # torchrun gives every rank a session of its own
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def checkpoint(self) -> Path:
        """The first one of the run that is under way, once it is whole."""
        checkpoint = self.output / "checkpoint-2"
        for _ in range(600):
            if (checkpoint / "trainer_state.json").is_file():
                return checkpoint
            time.sleep(0.1)
        raise SystemExit(f"{checkpoint} did not come")

    def make_later(self, checkpoint: Path, step: int) -> None:
        """Has a checkpoint say that it is one of a later step."""
        file = checkpoint / "trainer_state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"global_step": step}))
        checkpoint.rename(checkpoint.with_name(f"checkpoint-{step}"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    try:
        own = children(pid)
    except OSError:  # it has ended
        return []
    return [*own, *(further for child in own for further in descendants(child))]


def cpu_seconds(pid: int) -> float:
    """That a process has used, its children aside."""
    user, system = Path(f"/proc/{pid}/stat").read_text().split()[13:15]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int | str) -> dict[str, int]:
    """Of a process, in MB: its highest resident size, and its share of the memory that is in no file."""
    kilobytes = {}
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, *rest = line.split()
            if rest[-1:] == ["kB"]:
                kilobytes[name] = int(rest[0])
    return {"peak": kilobytes["VmHWM:"] // 1024, "own": kilobytes["Pss_Anon:"] // 1024}


def bytes_below(folder: Path) -> int:
    """Of what runs write: caches, output, temporary files."""
    places = (folder / name for name in ("cache", "out", "tmp"))
    return sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
