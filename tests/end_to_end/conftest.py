"""A corpus of tones and a checkpoint that fits it, small enough to be trained in a test."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from forked import FORKED

WORDS = ("AH", "BEE", "SEA", "DO")
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEHOS"]
RATE = 16_000


def utterance(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Return a tone for each word, all shifted by a random factor, which stands for the speaker."""
    key, pieces = rng.uniform(0.95, 1.05), [np.zeros(800)]
    for word in words:
        time = np.arange(2400) / RATE
        pitch = key * 300 * (WORDS.index(word) + 1)
        pieces += [0.3 * np.sin(2 * np.pi * pitch * time) * np.hanning(2400), np.zeros(800)]
    return (np.concatenate(pieces) + rng.normal(0, 0.003, sum(map(len, pieces)))).astype(np.float32)


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """A LibriSpeech folder: train-tones (48 utterances, 3 speakers) and dev-tones (12, 1 speaker)."""
    root, rng = tmp_path_factory.mktemp("tones") / "LibriSpeech", np.random.default_rng(0)
    for subset, speakers, count in (("train-tones", (1, 2, 3), 16), ("dev-tones", (4,), 12)):
        for speaker in speakers:
            folder = root / subset / str(speaker) / "10"
            folder.mkdir(parents=True)
            lines = []
            for number in range(count):
                words = [str(word) for word in rng.choice(WORDS, int(rng.integers(1, 6)))]
                name = f"{speaker}-10-{number:04}"
                soundfile.write(folder / f"{name}.flac", utterance(words, rng), RATE)
                lines.append(f"{name} {' '.join(words)}\n")
            (folder / f"{speaker}-10.trans.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A random wav2vec2 of 30 thousand parameters, with its processor."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("small")
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(TOKENS),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 24, 32),
        conv_kernel=(20, 8, 4),
        conv_stride=(10, 8, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="group",
        do_stable_layer_norm=True,
        pad_token_id=0,
        **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0),
        final_dropout=0.0,
        layerdrop=0.0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def command_line(tones: Path, small: Path, output: Path) -> list[str]:
    """Return the command line of a run of eight steps."""
    keys = {
        "model": small,
        "source": tones,
        "train_split": "train-tones",
        "eval_split": "dev-tones",
        "output_dir": output,
        "max_batch_seconds": 6,
        "max_steps": 8,
        "eval_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "mask_time_length": 2,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    return ["finetune-asr", *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]


@pytest.fixture
def arguments(tones, small, tmp_path) -> list[str]:
    """The command line of a run of eight steps into `out`."""
    return command_line(tones, small, tmp_path / "out")


@pytest.fixture(scope="session")
def undisturbed(tones, small, tmp_path_factory) -> tuple[list[str], Path]:
    """Return a command line that uses every source of randomness, and the output of its run without any fault.

    Log lines and checkpoints fall on different steps.
    """
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    keys = "--max_steps 16 --logging_steps 3 --mask_time_prob 0.3 --augment --hidden_dropout 0.1 --layerdrop 0.2 "
    keys += "--metric_for_best_model loss"  # no word is recognized that early
    command = [*command_line(tones, small, output), *keys.split(), "--resume_from_checkpoint", "auto"]
    run = FaultyRun(command, output.parent)
    assert run.exit_code() == 0, run.output()
    return command, output


@pytest.fixture
def faulty_run(tmp_path) -> Iterator[Callable[..., FaultyRun]]:
    """Start a command in its own process: see :class:`FaultyRun`."""
    runs: list[FaultyRun] = []

    def begin(command: list[str], **settings: Any) -> FaultyRun:
        runs.append(FaultyRun(command, tmp_path, **settings))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()


@pytest.fixture
def start(undisturbed, tmp_path, faulty_run) -> Callable[..., FaultyRun]:
    """Start the command of `undisturbed` into the folder `out`."""
    into = ["--output_dir", str(tmp_path / "out")]
    return lambda *keys, **settings: faulty_run([*undisturbed[0], *into, *keys], **settings)


class FaultyRun:
    """A run in its own process, in which faults are provoked.

    Args:
        command: arguments of ``sft-speech``.
        folder: gets the log.
        faults: in their order, (event, path, fault, directory): see `tests/faulty_run.py`.
        inside: id of a process in whose namespaces the run lives.
        environment: additional variables.
        cache: folder for the indices of corpora.
        slow_evaluation: seconds to read an utterance during evaluation, after step 1.
        imports: modules that register themselves, like `toy_task`.
    """

    SCRIPT = str(Path(__file__).parents[1] / "faulty_run.py")

    def __init__(
        self,
        command: list[str],
        folder: Path,
        faults: Sequence[tuple[str, ...]] = (),
        inside: int | None = None,
        environment: dict[str, str] | None = None,
        cache: Path | None = None,
        slow_evaluation: float = 0.0,
        imports: Sequence[str] = (),
    ) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}"
        job = {
            "command": command,
            "log": str(self.log),
            "faults": list(faults),
            "inside": inside,
            "environment": environment or {},
            "cache": cache and str(cache),
            "slow_evaluation": slow_evaluation,
            "imports": list(imports),
        }
        self.process = FORKED.Process(target=runpy.run_path, args=(self.SCRIPT, {"job": job}, "__main__"))
        self.process.start()

    def output(self) -> str:
        """Return stdout and stderr."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), f"it ended before:\n{self.output()}"
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.001)

    def send(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def exit_code(self, seconds: float = 300) -> int | None:
        """Wait for the end; return the exit code, or minus the number of the signal that killed the run."""
        self.process.join(seconds)
        assert not self.process.is_alive(), f"still running after {seconds} s:\n{self.output()}"
        return self.process.exitcode


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict[str, Any]]:
    return outcome_of


def outcome_of(output: Path) -> dict[str, Any]:
    """Return a hash of the weights, every logged loss and every evaluation, bit by bit."""
    newest = max(output.glob("checkpoint-*/files.json"), key=lambda path: int(path.parent.name.split("-")[1])).parent
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return {
        "weights": hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest(),
        "losses": [(row["step"], row["loss"], row["grad_norm"]) for row in history if "loss" in row],
        "evaluations": [(row["step"], row["eval_loss"], row["eval_wer"]) for row in history if "eval_wer" in row],
    }
