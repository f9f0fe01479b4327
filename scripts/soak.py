"""Train twice on a CPU, once undisturbed and once with repeated kills, and compare the results bit for bit.

    OMP_NUM_THREADS=1 .venv/bin/python scripts/soak.py outputs/soak --minutes 30

Both runs fine-tune the embedded checkpoint on the demo corpus, at the same time, on one thread each. The second run
gets SIGKILL or SIGTERM at random moments, half of them while it saves or evaluates, and is repeated with
`--resume_from_checkpoint auto` until it finishes. The script prints a table row and exits with 1 if the results differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sft_speech.errors import RESUMABLE

MODEL = Path(__file__).parents[1] / "sft_speech/assets/wav2vec2-small"
# All sources of randomness are on. Log lines and checkpoints fall on different steps.
SETTINGS = (
    "--train_split train-demo --eval_split dev-demo --max_batch_seconds 16 --learning_rate 1e-4 --logging_steps 7 "
    "--mask_time_prob 0.2 --hidden_dropout 0.1 --layerdrop 0.1 --augment --dataloader_num_workers 1"
).split()
SECONDS_PER_CHECKPOINT = 30
LONGEST_SECONDS = 90.0  # until a kill


def command(corpus: Path, output: Path, steps: int, every: int) -> list[str]:
    """Return the command line of a run with a checkpoint every ``every`` steps."""
    keys = {"model": MODEL, "source": corpus, "output_dir": output, "max_steps": steps, "eval_steps": every}
    line = [sys.executable, "-m", "sft_speech", "finetune-asr", "--resume_from_checkpoint", "auto", *SETTINGS]
    return [*line, *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]


def start(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        return subprocess.Popen(line, stdout=file, stderr=file, env=environment)


def seconds_per_step(corpus: Path, folder: Path) -> float:
    """Measure a short run while another one is running, as in the test."""
    pair = [start(command(corpus, folder / f"trial{n}", 40, 40), folder / f"trial{n}.log") for n in (1, 2)]
    if {process.wait() for process in pair} != {0}:
        raise SystemExit((folder / "trial1.log").read_text())
    return json.loads((folder / "trial1" / "all_results.json").read_text())["train_runtime"] / 40


def newest(output: Path) -> Path | None:
    """Return the last complete checkpoint, that is, one with a list of its files."""
    sealed = [path.parent for path in output.glob("checkpoint-*/files.json")]
    return max(sealed, key=lambda path: int(path.name.split("-")[1]), default=None)


def state(checkpoint: Path) -> dict[str, Any]:
    """Read the state of the trainer from a checkpoint."""
    return json.loads((checkpoint / "trainer_state.json").read_text())


def phase(output: Path, log: Path, began: float) -> str:
    """Return the current phase of a run that began at ``began`` (seconds since the epoch)."""
    if "trained: " not in log.read_text(errors="replace"):
        return "before step 1"
    try:
        for folder in output.glob("checkpoint-*"):
            if not (folder / "files.json").exists() and folder.stat().st_mtime > began:
                return "saving"
        last = newest(output)
        known = state(last) if last else None
    except (OSError, ValueError):  # it is being removed or replaced
        return "saving"
    if known and known["stateful_callbacks"]["TrainerControl"]["args"]["should_evaluate"]:
        return "evaluation"
    return "the end" if known and known["global_step"] == known["max_steps"] else "training"


def disturbed(line: list[str], output: Path, seed: int) -> tuple[Counter[tuple[str, str]], float]:
    """Repeat a command until it finishes, killing it at random moments.

    Returns:
        The number of kills by signal and phase, and the lost seconds of training.
    """
    rng, kills, lost, log = random.Random(seed), Counter[tuple[str, str]](), 0.0, output.with_suffix(".log")
    while True:
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        aim = rng.choice(("saving", "evaluation", "", ""))
        delay, moment = rng.uniform(0, 0.2 if aim == "saving" else 2), rng.uniform(1, LONGEST_SECONDS)
        began, process = time.time(), start(line, log)
        while process.poll() is None and time.time() < began + (2 * LONGEST_SECONDS if aim else moment):
            if aim and time.time() > began + moment / 4 and phase(output, log, began) == aim:
                time.sleep(delay)
                break
            time.sleep(0.005)
        hit = phase(output, log, began)
        process.send_signal(number)
        code = process.wait()
        if code == 0:
            return kills, lost
        if code not in (-number, RESUMABLE):
            raise SystemExit(f"ended with {code}:\n{log.read_text(errors='replace')}")
        kills[number.name, hit] += 1
        last = newest(output)
        lost += time.time() - max(began, (last / "files.json").stat().st_mtime if last else 0.0)
        where = f"after {last.name}" if last else "before the first checkpoint"
        print(f"{sum(kills.values())}: {number.name} while {hit}, {where}", file=sys.stderr, flush=True)


def result(output: Path) -> dict[str, Any]:
    """Return a hash of the weights, all logged losses and all evaluations."""
    last = newest(output)
    assert last is not None
    history = state(last)["log_history"]
    return {
        "weights": hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest(),
        "losses": [(row["step"], row["loss"], row["grad_norm"]) for row in history if "loss" in row],
        "evaluations": [(row["step"], row["eval_wer"], row["eval_loss"]) for row in history if "eval_wer" in row],
    }


def main() -> int:
    """Run both trainings and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the corpus and both runs; it is emptied first")
    parser.add_argument("--minutes", type=float, default=30, help="minutes of undisturbed training [30]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random kills [0]")
    args = parser.parse_args()
    folder, corpus = args.folder, args.folder / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "sft_speech", "make-demo-corpus", str(corpus)], check=True)
    pace = seconds_per_step(corpus, folder)
    steps, every = round(60 * args.minutes / pace), max(1, round(SECONDS_PER_CHECKPOINT / pace))
    print(f"{steps} steps of {pace:.2f} s, a checkpoint every {every}", file=sys.stderr, flush=True)

    undisturbed = start(command(corpus, folder / "undisturbed", steps, every), folder / "undisturbed.log")
    kills, lost = disturbed(command(corpus, folder / "disturbed", steps, every), folder / "disturbed", args.seed)
    if undisturbed.wait():
        raise SystemExit((folder / "undisturbed.log").read_text(errors="replace"))
    one, other = result(folder / "undisturbed"), result(folder / "disturbed")
    same = {name: one[name] == other[name] for name in one}
    minutes = json.loads((folder / "undisturbed" / "all_results.json").read_text())["train_runtime"] / 60
    by_phase = ", ".join(f"{count} {name} {hit}" for (name, hit), count in sorted(kills.items()))
    print("| minutes | steps | kills | by signal and phase | minutes lost | weights | losses | evaluations |")
    equal = " | ".join(f"{'equal' if same[name] else 'DIFFERENT'}" for name in same)
    print(f"| {minutes:.0f} | {steps} | {kills.total()} | {by_phase} | {lost / 60:.1f} | {equal} |")
    print(f"sha256 of model.safetensors: {one['weights']}, {other['weights']}; {len(one['losses'])} lines of the log")
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
