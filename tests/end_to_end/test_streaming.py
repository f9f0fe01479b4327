"""Fine-tuning on a streamed corpus: parquet shards, as on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sharded_tones import shard

from sft_speech.cli import main
from sft_speech.tasks.asr.ctc.loss import CtcCriterion
from sft_speech.training import run, stream
from sft_speech.training.oom_check import oom_check


@pytest.fixture
def streamed(arguments, tones, tmp_path) -> list[str]:
    """The command line of a run on three streamed shards."""
    source = shard(tones, tmp_path / "parquet", (20, 17, 11))
    keys = ["--source", str(source), "--train_split", "train", "--eval_split", "dev", "--streaming", "--augment"]
    return [*arguments, *keys]


def losses(output: Path) -> list[float]:
    """Return the logged loss of every step, from the newest checkpoint."""
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_has_the_same_batches(streamed, tmp_path, workers, monkeypatch):
    """Twenty steps of two batches are about four epochs; an epoch has several pools of different lengths."""
    monkeypatch.setattr(stream, "POOL_BATCHES", 2)
    keys = ["--max_steps", "20", "--eval_steps", "5", "--save_total_limit", "4", "--gradient_accumulation_steps", "2"]
    command = [*streamed, *keys, "--hidden_dropout", "0.1", "--dataloader_num_workers", workers]
    assert main(command) == 0
    whole = losses(tmp_path / "out")
    assert len(whole) == 20
    for step in (5, 15):
        resumed = tmp_path / f"resumed-{step}"
        more = ["--resume_from_checkpoint", str(tmp_path / "out" / f"checkpoint-{step}"), "--output_dir", str(resumed)]
        assert main([*command, *more]) == 0
        assert losses(resumed) == whole
        weights = [(folder / "model.safetensors").read_bytes() for folder in (resumed, tmp_path / "out")]
        assert weights[0] == weights[1]
    report = json.loads((resumed / "corpus_report.json").read_text())
    assert report["train"]["kept"]["rows"] == 48
    figures = json.loads((resumed / "all_results.json").read_text())
    assert 3.5 < figures["audio_hours"] / report["train"]["kept"]["hours"] < 5


def test_two_processes_share_a_stream_and_resume(streamed, tmp_path, two_processes):
    """Nine row groups cannot be divided between two processes: each reads all and uses half."""
    script = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
    command = [script, *streamed[1:], "--save_total_limit", "3"]
    two_processes(*command)
    out = tmp_path / "out"
    assert {path.name for path in (out / "checkpoint-4").glob("stream_*")} == {"stream_0.json", "stream_1.json"}
    kept = json.loads((out / "corpus_report.json").read_text())["train"]["kept"]
    assert kept["rows"] == 48, "the rows of both processes"
    resumed = tmp_path / "resumed"
    two_processes(*command, "--output_dir", str(resumed), "--resume_from_checkpoint", str(out / "checkpoint-4"))
    assert losses(resumed) == pytest.approx(losses(out), rel=1e-6)


def damage(folder: Path, **columns: dict[int, object]) -> None:
    """Replace values in the first shard: ``{row: value}`` for each column."""
    path = sorted(folder.glob("train-*"))[0]
    table = pq.read_table(path).to_pydict()
    for name, values in columns.items():
        for row, value in values.items():
            table[name][row] = value
    pq.write_table(pa.table(table), path)


def test_unusable_rows_are_counted_and_skipped(streamed, tmp_path):
    damage(
        tmp_path / "parquet",
        audio={3: {"bytes": b"no audio", "path": None}},
        text={5: "AH BEE SEA DO " * 40, 7: ""},
    )
    assert main([*streamed, "--max_dropped_share", "0.1", "--dataloader_num_workers", "1", "--max_steps", "12"]) == 0
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())["train"]
    assert report["kept"]["rows"] == 45
    reasons = {reason: len(rows) for reason, rows in report["dropped"]["reasons"].items()}
    assert reasons == {"not audio": 1, "more labels than frames": 1, "empty transcript": 1}


def test_too_many_unusable_rows_end_the_run(streamed, tmp_path, capsys):
    damage(tmp_path / "parquet", text=dict.fromkeys(range(5), ""))
    assert main([*streamed, "--max_steps", "100"]) == 2
    assert "5 of 48 rows (10.4%) cannot be used" in capsys.readouterr().err


def test_a_vocabulary_is_built_from_the_stream(streamed, tmp_path, caplog):
    assert main([*streamed, "--new_vocabulary", "--max_steps", "1"]) == 0
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert set("abdehos") <= vocabulary.keys()
    assert "the vocabulary is built from the first 2000 transcripts" in caplog.text


def test_the_memory_check_uses_a_synthetic_batch(streamed, monkeypatch):
    """As on a GPU: here with two clips of 2.55 s, which always fit, even slowed to 3 s."""
    build, loss, seen = run.build_trainer, CtcCriterion.loss, []

    def build_and_check(*args):
        oom_check(trainer := build(*args))
        return trainer

    def watched(self, model, batch):
        seen.append(batch["input_values"])
        return loss(self, model, batch)

    monkeypatch.setattr(run, "build_trainer", build_and_check)
    monkeypatch.setattr(CtcCriterion, "loss", watched)
    assert main([*streamed, "--max_seconds", "4", "--max_steps", "1"]) == 0
    assert len(seen) == 2
    assert len(seen[0]) == 2
    assert 4.2 < seen[0].numel() / 16_000 <= 6.0, "max_batch_seconds is 6"


def test_a_folder_of_recordings_can_be_streamed(arguments, tmp_path):
    assert main([*arguments, "--streaming", "--dataloader_num_workers", "2"]) == 0
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())
    assert report["train"]["kept"]["rows"] == 48


def test_a_stream_needs_max_steps(streamed, capsys):
    assert main([*streamed, "--max_steps", "-1"]) == 2
    assert "set max_steps" in capsys.readouterr().err
