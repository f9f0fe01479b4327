"""Fine-tuning on several corpora at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sft_speech.cli import main


@pytest.fixture(scope="session")
def second(tones, tmp_path_factory) -> Path:
    """Another corpus, whose ids and speakers are those of the first: train-tones of speaker 1, and dev-tones."""
    root = tmp_path_factory.mktemp("second") / "other"
    shutil.copytree(tones / "train-tones" / "1", root / "train-tones" / "1")
    shutil.copytree(tones / "dev-tones", root / "dev-tones")
    return root


def mix(arguments: list[str], *tables: dict) -> list[str]:
    """Return a command line with ``sources`` in place of one source."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--source", "--train_split", "--eval_split"):
            next(words)
        else:
            kept.append(word)
    return [*kept, "--sources", json.dumps(list(tables))]


@pytest.fixture
def mixed(arguments, tones, second) -> list[str]:
    """The command line of a run on two corpora, three quarters of it on the smaller one."""
    tables = [
        {"source": str(tones), "split": "train-tones", "weight": 1, "eval_split": "dev-tones"},
        {"source": str(second), "split": "train-tones", "weight": 3, "eval_split": "dev-tones"},
    ]
    return mix(arguments, *tables)


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "log_history.json").read_text())["log_history"]


def test_a_run_on_two_corpora(mixed, tmp_path, caplog):
    assert main([*mixed, "--augment", "--max_steps", "4", "--eval_steps", "2"]) == 0
    out = tmp_path / "out"
    shown = caplog.text
    assert "LibriSpeech                            48     0.01        1  25.00%" in shown
    assert "other                                  16     0.00        3  75.00%" in shown
    report = json.loads((out / "corpus_report.json").read_text())
    assert {name: report[name]["kept"]["rows"] for name in ("LibriSpeech", "other")} == {"LibriSpeech": 48, "other": 16}
    log = log_of(out)
    trained = [entry for entry in log if "loss" in entry]
    assert all(entry["loss_LibriSpeech"] > 0 or entry["loss_other"] > 0 for entry in trained)
    evaluated = [entry for entry in log if "eval_wer" in entry]
    for entry in evaluated:
        assert entry["eval_wer"] == pytest.approx((entry["eval_LibriSpeech_wer"] + entry["eval_other_wer"]) / 2)
    results = json.loads((out / "all_results.json").read_text())
    assert {"train_loss_LibriSpeech", "train_loss_other", "eval_LibriSpeech_wer", "eval_other_wer", "eval_wer"} <= {
        *results
    }
    assert {path.name for path in (out / "evaluation").glob("*.json")} == {"eval_LibriSpeech.json", "eval_other.json"}
    card = (out / "README.md").read_text()
    assert "LibriSpeech" in card
    assert "other" in card
