"""The real command on processes that each hold a shard of the model, and on machines that share a disk."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
SEVERAL = str(Path(__file__).parents[1] / "several_runs.py")


def history(output: Path) -> list[dict[str, float]]:
    """Return losses, gradient norms and evaluations from the checkpoint of step 8."""
    logged = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    names = ("loss", "grad_norm", "eval_loss", "eval_wer")
    return [{name: entry[name] for name in names if name in entry} for entry in logged]


def close(output: Path) -> list:
    return [pytest.approx(entry, rel=1e-4) for entry in history(output)]


def transcripts(output: Path) -> dict[str, str]:
    (file,) = (output / "evaluation").glob("dev-tones*.jsonl")
    return {row["id"]: row["hypothesis"] for row in map(json.loads, file.read_text().splitlines())}


def test_a_sharded_model_trains_like_a_whole_one(arguments, tones, tmp_path, two_processes, two_pieces):
    """Layers are dropped, and one process has more batches to evaluate.

    A layer and a half of two are frozen for good in one shard, and the others begin one after another; the resumed run
    starts between them.
    """
    from transformers import pipeline

    keys = "--layerdrop 0.5 --unfreeze_every_steps 2 --layerwise_lr_decay 0.8 --gradient_accumulation_steps 2".split()
    keys += ["--train", "[head, encoder.layers.1, encoder.layers.0.attention, projection]"]
    keys += "--mask_time_prob 0.3 --max_batch_seconds 1.2 --eval_split dev-tones:11 --save_total_limit 3".split()
    keys += "--interpolate 0.6 --keep_splits dev-tones:5".split()
    run = [SCRIPT, *arguments[1:], *keys]
    whole, cut, resumed = (tmp_path / name for name in ("whole", "cut", "resumed"))
    two_processes(*run, "--output_dir", str(whole))
    two_pieces(*run, "--output_dir", str(cut), "--gradient_checkpointing")
    assert history(cut) == close(whole)
    assert_close(load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors"), rtol=1e-4, atol=1e-5)
    assert (cut / "config.json").read_text() == (whole / "config.json").read_text()
    plain = pipeline("automatic-speech-recognition", str(cut))
    files = sorted((tones / "dev-tones").rglob("*.flac"))
    texts = {file.stem: plain(soundfile.read(file, dtype="float32")[0])["text"] for file in files}
    texts = {name: re.sub(r"</?s>|<unk>", "", text).split() for name, text in texts.items()}  # ours leaves them out
    ours = {name: text.split() for name, text in transcripts(cut).items()}
    assert any(ours.values())
    assert len(ours) == 11
    assert {name: texts[name] for name in ours} == ours
    listed = json.loads((cut / "checkpoint-4" / "files.json").read_text())
    assert {"pytorch_model_fsdp", "optimizer"} <= {name.split("/")[0].split(".")[0] for name in listed}
    two_pieces(*run, "--output_dir", str(resumed), "--resume_from_checkpoint", str(cut / "checkpoint-4"))
    assert history(resumed) == close(cut)


def test_both_shards_skip_a_bad_step_and_the_run_is_uploaded_at_its_end(arguments, hub, tmp_path, two_pieces):
    """Checkpoints hold only shards, so they are not uploaded."""
    keys = "--max_steps 4 --eval_steps 2 --push_to_hub --hub_model_id me/model --hub_strategy every_save".split()
    runs = [{"arguments": [*arguments, *keys], "fault": "bad step", "rank": 1}]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    two_pieces(SEVERAL, str(tmp_path / "runs.json"))
    out = tmp_path / "out"
    (entry,) = map(json.loads, (out / "bad_batches.jsonl").read_text().splitlines())
    assert entry["step"] == 3
    assert [(batch["process"], math.isnan(batch["loss"])) for batch in entry["batches"]] == [(0, False), (1, True)]
    assert json.loads((out / "all_results.json").read_text())["skipped_steps"] == 1
    weights = load_file(out / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    repo = hub.repos["me/model"]
    assert [commit["message"] for commit in repo.commits] == ["End of training"]
    assert repo.files["model.safetensors"] == (out / "model.safetensors").read_bytes()


def test_two_machines_share_a_disk_but_no_cache(arguments, tmp_path, two_machines):
    two_machines("multi_node.yaml", SCRIPT, *arguments[1:], "--save_total_limit", "3")
    out = tmp_path / "out"
    assert sorted(transcripts(out)) == [f"4-10-{number:04}" for number in range(12)]
    assert len(history(out)) == 11  # one before training, eight losses, two evaluations
    assert len(list((out / "checkpoint-8").glob("rng_state_*.pth"))) == 4
    # A small corpus is sent to the other machine, which then reads no headers.
    assert len(list((tmp_path / "cache0").rglob("headers-*.parquet"))) == 2
    assert not list((tmp_path / "cache1").rglob("headers-*.parquet"))
