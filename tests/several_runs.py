"""Runs of the command line, one after the other, in processes that a launcher started; the last may be made to fail.

several_runs.py RUNS.json, a list of {"arguments": [...], "fault": NAME, "rank": process with the fault}. Each process
writes a line for each run into RUNS.json.RANK: its batches, and the files that it wrote into the output directory. The
modification time of RUNS.json.failed is that of the fault.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from transformers import Trainer
from transformers.models.speecht5.modeling_speecht5 import SpeechT5SpeechDecoderPrenet

from sft_speech.audio import read as audio
from sft_speech.cli import main
from sft_speech.inference import clips
from sft_speech.training.skipped_audio import WithContents
from sft_speech.training.trainer import ExactTrainer

STEPS_BEFORE = 2  # the fault


def mark_time() -> None:
    Path(f"{sys.argv[1]}.failed").touch()


def kill_process(*_, **__) -> None:
    mark_time()
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*_, **__) -> None:
    mark_time()
    raise ZeroDivisionError("made to fail")


def run_out_of_memory(*_, **__) -> None:
    mark_time()
    raise MemoryError


def in_training(harm: Callable[..., None]) -> None:
    train = Trainer.training_step

    def harmed(self, *args, **kwargs):
        if self.state.global_step == STEPS_BEFORE:
            harm()
        return train(self, *args, **kwargs)

    Trainer.training_step = harmed


def in_evaluation(harm: Callable[..., None]) -> None:
    clips.read = harm


def in_the_loader(harm: Callable[..., None]) -> None:
    audio.read = harm  # also in the workers, which are forked


def bad_step() -> None:
    compute = ExactTrainer.compute_loss

    def harmed(self, *args, **kwargs):
        bad = self.state.global_step == STEPS_BEFORE
        return compute(self, *args, **kwargs) * (float("nan") if bad else 1.0)

    ExactTrainer.compute_loss = harmed


FAULTS: dict[str, Callable[[], None]] = {
    "killed": lambda: in_training(kill_process),
    "memory": lambda: in_training(run_out_of_memory),
    "training": lambda: in_training(fail),
    "evaluation": lambda: in_evaluation(fail),
    "loader": lambda: in_the_loader(fail),
    "bad step": bad_step,
}


def watch(output: str) -> Callable[[], dict]:
    """Return a function that returns what this process has read and which files it has written to `output` since."""
    seconds, wrote = [], set()
    collate = WithContents.__call__

    def counted(self, utterances):
        batch = collate(self, utterances)
        seconds.append(float(batch["seconds"]))
        return batch

    def hook(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str | Path) and set(str(args[1])) & set("wax+"):
            file = Path(args[0])
            if file.is_relative_to(output):
                wrote.add(str(file.relative_to(output)))

    WithContents.__call__ = counted
    sys.addaudithook(hook)

    def seen() -> dict:
        WithContents.__call__ = collate
        return {"batches": len(seconds), "seconds": sum(seconds), "wrote": sorted(wrote)}

    return seen


if __name__ == "__main__":
    SpeechT5SpeechDecoderPrenet._consistent_dropout = lambda self, hidden, p: hidden  # random in every process
    rank, code = os.environ["RANK"], 0
    for run in json.loads(Path(sys.argv[1]).read_text()):
        if str(run.get("rank")) == rank:
            FAULTS[run["fault"]]()
        seen = watch(run["arguments"][run["arguments"].index("--output_dir") + 1])
        code = main(run["arguments"])
        with Path(f"{sys.argv[1]}.{rank}").open("a") as notes:
            notes.write(json.dumps({"rank": int(rank), "code": code, **seen()}) + "\n")
        if code:
            sys.exit(code)
