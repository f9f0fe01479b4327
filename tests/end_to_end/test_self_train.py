"""Self-training with real runs, killed in its second round and continued."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from sft_speech.cli import main
from sft_speech.hub import provenance


@pytest.mark.slow
def test_killed_it_continues_and_repeats_nothing(tones, small, tiny_seq2seq, tmp_path, start_python):
    """A Whisper teaches a wav2vec2 its letters; they mean nothing, but are learned."""
    out = tmp_path / "out"
    run = {
        "model": str(small),
        "source": str(tones),
        "train_split": "train-tones:24",
        "eval_split": "dev-tones",
        "output_dir": str(out),
        "max_batch_seconds": 6,
        "max_steps": 60,
        "eval_steps": 20,
        "learning_rate": 1e-3,
        "mask_time_length": 2,
        "new_vocabulary": True,
        "max_dropped_share": 1.0,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    table = {
        "teacher": str(tiny_seq2seq("whisper-en", max_target_positions=20)),
        "unlabelled": [{"split": "train-tones[24:]"}],
        "rounds": 1,
    }
    table |= {"ignore_text": True, "chars_per_second": [0, 1000], "student": {"augment": True}}
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(run | {"self_train": table}))
    command = ["self-train", "--config", str(file)]
    student, labels = out / "rounds/1/student", out / "rounds/1/labels"

    killed = start_python("import sys; from sft_speech.cli import main; sys.exit(main(sys.argv[1:]))", *command)
    deadline = time.monotonic() + 300
    while not (student / "checkpoint-20" / "files.json").exists():
        assert killed.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    inner = json.loads((student / ".run.json").read_text())["pid"]
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    while Path(f"/proc/{inner}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not (student / "model.safetensors").exists()
    (written,) = labels.glob("*.labels/teacher.jsonl")
    before = written.stat().st_mtime_ns

    assert main(command) == 0
    assert written.stat().st_mtime_ns == before
    assert [bool(one["from"]) for one in provenance.read(student)] == [False, True]
    state = json.loads((out / "self_train.json").read_text())
    (row,) = state["table"]
    assert row["labels_rows"] == row["labels_kept"] + sum(row["labels_left_out"].values()) == 24
    assert row["labels_kept"] > 0
    assert row["training_cpu_seconds"] > 0
    manifest = yaml.safe_load((student / "run.yaml").read_text())["sources"][1]["source"]
    assert manifest == str(out / "rounds/1/pseudo.jsonl")
    assert set(json.loads((student / "vocab.json").read_text())) & set("0123456789"), "only a teacher writes digits"
    assert (out / "student" / "model.safetensors").samefile(Path(state["student"]) / "model.safetensors")
