"""The directory of a run with hostile names in it, written by hand, and its model card."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from sft_speech.hub.card import CARD, write_card
from sft_speech.options.settings import save_config
from sft_speech.tasks import task_of
from sft_speech.tasks.asr.config import FinetuneAsrConfig

SPITE = "a|b`<script>alert(1)</script>\n# c\n---\nd"


def figures(wer: float, **more: object) -> dict[str, object]:
    around = {"wer_interval": [wer - 0.01, wer + 0.02], "interval_over": "speakers"}
    return {"wer": wer, "cer": wer / 2, "utterances": 7, "hours": 0.5, "failed": {}, **around, **more}


def run_with_card(parent: Path) -> Path:
    """Make the directory of a run on org/trained_on that was evaluated on org/judged_by."""
    folder = parent / "out"
    (folder / "evaluation").mkdir(parents=True)
    config = FinetuneAsrConfig(
        model="org/model",
        source="org/trained_on",
        train_split="train",
        eval_source="org/judged_by",
        eval_split="dev",
        test_splits=["test", "eval"],
        output_dir=str(folder),
        language="pt_BR",
        license="cc-by-4.0",
        hub_model_id="me/kept_out",
    )
    save_config(config, folder / "run.yaml")
    write(folder / "config.json", {"architectures": ["Wav2Vec2ForCTC"]})
    write(folder / "all_results.json", {"train_loss": 1.25, "audio_hours": 2.0, "train_runtime": 3661.0})
    write(folder / "evaluation" / "dev.json", figures(0.1))
    write(folder / "evaluation" / "test.json", figures(0.2, failed={"secret-id": "unreadable"}))
    write(folder / "evaluation" / "eval.json", figures(0.3))
    log = [{"step": step, "loss": 9.0 / step, "learning_rate": 1e-3, "grad_norm": 1.0} for step in range(1, 9)]
    write(folder / "log_history.json", {"log_history": [*log, *({"step": n, "eval_wer": 0.5} for n in (4, 8))]})
    dropped = {"rows": 2, "share": 0.5, "reasons": {"silent": [{"id": "secret-id", "detail": SPITE}] * 2}}
    report = {"kept": {"rows": 48, "hours": 1.5}, "dropped": dropped, "missing_characters": {}}
    write(folder / "corpus_report.json", {"train": report, SPITE: report})
    start = {
        "command": ["finetune-asr", "--config", "configs/asr/wav2vec2-base_1h.yaml", "--output_dir", str(folder)],
        "preset": "wav2vec2-base_1h.yaml",
        "on_disk": ["output_dir"],
        "device": "NVIDIA H100",
        "processes": 2,
        "cores": 16,
        "memory_gb": 128,
        "cuda": "13.0",
        "python": "3.12.1",
        "versions": {"sft_speech": "0.1.0", "torch": "2.14.1"},
    }
    write(folder / "provenance.json", {"starts": [start]})
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def card(folder: Path, repository: str | None = None, **options: bool) -> tuple[dict, str]:
    """Its head and its body."""
    assert write_card(folder, task_of(folder), repository, **options)
    _, head, body = (folder / CARD).read_text().split("---\n", 2)
    return yaml.safe_load(head), body
