"""The real command on several processes that share a model, and on several machines that share a disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from safetensors.torch import load_file
from torch.testing import assert_close

pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")


def history(output: Path) -> list[dict[str, float]]:
    """Of the checkpoint after eight steps: loss, gradient norm and evaluations."""
    logged = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    names = ("loss", "grad_norm", "eval_loss", "eval_wer")
    return [{name: entry[name] for name in names if name in entry} for entry in logged]


def close(output: Path) -> list:
    return [pytest.approx(entry, rel=1e-4) for entry in history(output)]


def transcripts(output: Path) -> dict[str, str]:
    (file,) = (output / "evaluation").glob("*.jsonl")
    return {row["id"]: row["hypothesis"] for row in map(json.loads, file.read_text().splitlines())}


def test_a_model_in_pieces_learns_as_a_whole_one(arguments, tones, tmp_path, two_processes, two_pieces):
    """Layers are left out, the body follows after five steps, in the middle of what is resumed; one process has more
    batches to evaluate than the other.
    """
    from transformers import pipeline

    keys = "--layerdrop 0.5 --freeze_encoder_steps 5 --layerwise_lr_decay 0.8 --gradient_accumulation_steps 2".split()
    keys += "--mask_time_prob 0.3 --max_batch_seconds 1.2 --eval_split dev-tones:11 --save_total_limit 3".split()
    run = [SCRIPT, *arguments[1:], *keys]
    whole, cut, resumed = (tmp_path / name for name in ("whole", "cut", "resumed"))
    two_processes(*run, "--output_dir", str(whole))
    two_pieces(*run, "--output_dir", str(cut), "--activation_checkpointing")
    assert history(cut) == close(whole)
    assert_close(load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors"), rtol=1e-4, atol=1e-5)
    assert (cut / "config.json").read_text() == (whole / "config.json").read_text()
    plain = pipeline("automatic-speech-recognition", str(cut))
    files = sorted((tones / "dev-tones").rglob("*.flac"))
    heard = {file.stem: plain(soundfile.read(file, dtype="float32")[0])["text"].split() for file in files}
    ours = {name: text.split() for name, text in transcripts(cut).items()}
    assert any(ours.values())
    assert len(ours) == 11
    assert {name: heard[name] for name in ours} == ours
    listed = json.loads((cut / "checkpoint-4" / "files.json").read_text())
    assert {"pytorch_model_fsdp", "optimizer"} <= {name.split("/")[0].split(".")[0] for name in listed}
    two_pieces(*run, "--output_dir", str(resumed), "--resume_from_checkpoint", str(cut / "checkpoint-4"))
    assert history(resumed) == close(cut)


def test_two_machines_share_a_disk_but_no_cache(arguments, tmp_path, two_machines):
    two_machines("multi_node.yaml", SCRIPT, *arguments[1:], "--save_total_limit", "3")
    out = tmp_path / "out"
    assert sorted(transcripts(out)) == [f"4-10-{number:04}" for number in range(12)]
    assert len(history(out)) == 10
    assert len(list((out / "checkpoint-8").glob("rng_state_*.pth"))) == 4
    # A small corpus travels, so that the other machine has no header to read.
    assert len(list((tmp_path / "cache0").rglob("headers-*.parquet"))) == 2
    assert not list((tmp_path / "cache1").rglob("headers-*.parquet"))
