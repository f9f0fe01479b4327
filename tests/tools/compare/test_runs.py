"""Finished runs as candidates: their files are read, and runs that cannot be compared are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from comparisons import recognized, write_lines
from safetensors.numpy import save_file

from sft_speech.errors import UserError
from sft_speech.tools.compare.grid import short_paths
from sft_speech.tools.compare.judge import judge
from sft_speech.tools.compare.runs import outcomes_of_runs


def run(folder: Path, errors: int, *, size: int = 10, architecture: str = "Wav2Vec2ForCTC", **options: Any) -> Path:
    """Return the directory of a finished run with a model of ``size`` parameters."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    values = {"model": "tiny", "source": "corpus", "train_split": "train", "eval_split": "dev"} | options
    (folder / "run.yaml").write_text(yaml.safe_dump(values | {"output_dir": str(folder)}))
    figures = {"eval_wer": errors / 10, "eval_loss": 1.0, "train_runtime": 50.0}
    (folder / "all_results.json").write_text(json.dumps(figures))
    (folder / "log_history.json").write_text(json.dumps({"log_history": [{"step": 5}, {"step": 20}]}))
    (folder / "provenance.json").write_text(json.dumps({"starts": [{}]}))
    write_lines(folder / "evaluation", "dev", recognized([errors] * 20), real_time_factor=0.02, normalizer="checkpoint")
    save_file({"weight": np.zeros((size, 1), np.float32)}, folder / "model.safetensors")
    return folder


def test_the_files_of_two_runs(tmp_path):
    first = run(tmp_path / "a", 1, learning_rate=1e-4)
    second = run(tmp_path / "b", 3, size=30, learning_rate=1e-5)
    found = outcomes_of_runs([first, second])
    one, other = found.outcomes
    assert (found.task, found.metric.name, found.splits) == ("asr", "wer", {"eval": "dev"})
    assert (one.name, one.settings, one.parameters, other.parameters) == ("a", {"learning_rate": 0.0001}, 10, 30)
    assert (one.updates, one.seconds_per_update, one.audio_seconds_per_second) == (20, 2.5, 50.0)
    assert (one.cpu_seconds_per_update, one.audio_seconds_per_cpu_second) == (None, None)
    assert judge(found).chosen.name == "a"


def test_times_of_the_processor(tmp_path):
    runs = [run(tmp_path / name, 1) for name in "ab"]
    for folder in runs:
        figures = json.loads((folder / "all_results.json").read_text())
        figures |= {"cpu_seconds_per_update": 0.5, "eval_audio_seconds_per_cpu_second": 9.0}
        (folder / "all_results.json").write_text(json.dumps(figures))
    summary = {"real_time_factor": 0.02, "cpu_real_time_factor": 0.04, "normalizer": "checkpoint"}
    (runs[0] / "evaluation" / "dev.json").write_text(json.dumps(summary))
    one, other = outcomes_of_runs(runs).outcomes
    assert (one.cpu_seconds_per_update, one.audio_seconds_per_cpu_second) == (0.5, 25.0)
    assert other.audio_seconds_per_cpu_second == 9.0


def test_the_time_of_a_resumed_run_is_not_known(tmp_path):
    first, second = run(tmp_path / "a", 1), run(tmp_path / "b", 1)
    (first / "provenance.json").write_text(json.dumps({"starts": [{}, {}]}))
    found = outcomes_of_runs([first, second])
    assert [one.seconds_per_update for one in found.outcomes] == [None, 2.5]


def test_runs_with_other_splits_are_refused(tmp_path):
    runs = [run(tmp_path / "a", 1), run(tmp_path / "b", 1, eval_split="other")]
    with pytest.raises(UserError, match=r"a and .*b: they were evaluated on different splits \(dev and other\)"):
        outcomes_of_runs(runs)


def test_runs_of_other_tasks_are_refused(tmp_path):
    runs = [run(tmp_path / "a", 1), run(tmp_path / "b", 1, architecture="Wav2Vec2ForSequenceClassification")]
    with pytest.raises(UserError, match="the first is for speech recognition, the second for speech classification"):
        outcomes_of_runs(runs)


def test_one_run_twice_or_an_unfinished_one_is_refused(tmp_path):
    first = run(tmp_path / "a", 1)
    with pytest.raises(UserError, match="needs at least two different runs"):
        outcomes_of_runs([first, first])
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="it is not the directory of a finished run"):
        outcomes_of_runs([first, tmp_path / "b"])


def test_names_are_the_shortest_ends_that_differ():
    assert short_paths([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert short_paths([Path("/x/a"), Path("/y/a"), Path("/x/b")]) == ["x/a", "y/a", "x/b"]
