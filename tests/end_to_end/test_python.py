"""Fine-tuning from Python: the same run as from the command line, on rows of any dataset."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from transformers import AutoModelForCTC, AutoProcessor, TrainerCallback

from sft_speech import Transcriber, UserError, finetune, load_corpus
from sft_speech.cli import main

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "max_steps": 6,
    "logging_steps": 1,
    "eval_steps": 3,
    "max_batch_seconds": 6.0,
    "learning_rate": 1e-3,
    "dataloader_num_workers": 0,
    "report_to": "none",
}


def losses(history: list[dict]) -> list[tuple[float, float]]:
    return [(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]


def as_arrays(rows: datasets.Dataset) -> datasets.Dataset:
    """Return the rows with their samples in memory and other column names."""
    made = [soundfile.read(row["audio"]["path"], dtype="float32") for row in rows]
    return datasets.Dataset.from_dict(
        {
            "recording": [{"array": array, "sampling_rate": rate} for array, rate in made],
            "sentence": rows["text"],
            "id": rows["id"],
        }
    )


@pytest.fixture(scope="module")
def rows(tones) -> dict[str, datasets.Dataset]:
    return {role: load_corpus(tones, f"{split}-tones") for role, split in (("train", "train"), ("eval", "dev"))}


@pytest.fixture(scope="module")
def by_command(tones, small, tmp_path_factory) -> list[tuple[float, float]]:
    """The losses and gradient norms of the run from the command line."""
    out = tmp_path_factory.mktemp("command") / "out"
    keys = {"model": small, "source": tones, "train_split": "train-tones", "eval_split": "dev-tones"}
    arguments = [f"--{key}={value}" for key, value in {**keys, **OPTIONS, "output_dir": out}.items()]
    assert main(["finetune-asr", *arguments]) == 0
    return losses(json.loads((out / "log_history.json").read_text())["log_history"])


@pytest.mark.parametrize("form", ["rows of load_corpus", "arrays"])
def test_the_losses_are_those_of_the_command_line(by_command, rows, small, tmp_path, form):
    given = rows if form != "arrays" else {role: as_arrays(one) for role, one in rows.items()}
    names = {"audio_column": "recording", "text_column": "sentence"} if form == "arrays" else {}
    result = finetune(small, **given, output_dir=tmp_path / "out", **names, **OPTIONS)
    assert losses(result.history) == by_command
    assert result.finished
    assert result.metrics == json.loads((tmp_path / "out/all_results.json").read_text())
    assert result.metrics["eval_wer"] > 0
    assert "fine-tuned for speech recognition on in memory" in (tmp_path / "out/README.md").read_text()
    recording = rows["eval"][0]["audio"]["path"]
    assert Transcriber(result.output_dir)(recording).text is not None


def test_a_loaded_model_callbacks_and_a_test_split(by_command, rows, small, tmp_path):
    steps = []

    class Counted(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    model, processor = AutoModelForCTC.from_pretrained(small), AutoProcessor.from_pretrained(small)
    result = finetune(
        model,
        processor=processor,
        train=rows["train"],
        test={"unseen": rows["eval"]},
        output_dir=tmp_path / "out",
        callbacks=[Counted()],
        **OPTIONS,
    )
    assert losses(result.history) == by_command
    assert steps == [1, 2, 3, 4, 5, 6]
    assert result.metrics["unseen_wer"] > 0
    assert not any(name.startswith("eval_") for name in result.metrics)


def test_a_stream(rows, small, tmp_path):
    streamed = as_arrays(rows["train"]).to_iterable_dataset(num_shards=2)
    names = {"audio_column": "recording", "text_column": "sentence"}
    result = finetune(small, train=streamed, output_dir=tmp_path / "out", **names, **OPTIONS)
    assert len(losses(result.history)) == 6
    assert all(np.isfinite(loss) for loss, _ in losses(result.history))


def test_a_stopped_run_resumes(by_command, rows, small, tmp_path):
    class Stopped(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    options = {**OPTIONS, "output_dir": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        finetune(small, **rows, callbacks=[Stopped()], **{**options, "eval_steps": 2})
    result = finetune(small, **rows, **{**options, "eval_steps": 2}, resume_from_checkpoint="auto")
    assert losses(result.history) == by_command


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1e-4}, "did you mean learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate: fast"),
        ({"task": "asl"}, "choose one of asr"),
        ({"train": None}, "pass train="),
        ({"train": {"a": 1}}, "its type is int"),
        ({"train": datasets.DatasetDict({"a": datasets.Dataset.from_dict({})})}, "holds the splits a,"),
        ({"parts": ["heat"]}, "did you mean head"),
    ],
)
def test_errors_are_exceptions_with_the_same_text(rows, small, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        finetune(small, **{**rows, "output_dir": tmp_path / "out", **given})
    assert not (tmp_path / "out").exists()


def test_the_example_in_the_readme(tones, tmp_path, monkeypatch, capsys):
    """Run it unchanged, on eight recordings, from a folder that is laid out like a clone."""
    (tmp_path / "sft_speech").symlink_to(ROOT / "sft_speech")
    found = sorted((tones / "dev-tones").rglob("*.flac"))[:8]
    with open(tmp_path / "recordings.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "sentence"])
        table.writerows([shutil.copy(path, tmp_path), "a bee"] for path in found)
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().split("### From Python")[1].split("\n## ")[0]
    names: dict[str, object] = {}
    for cell in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(cell, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.match(r"WER \d+\.\d%\n\[\(10, \d+\.\d+\), \(20, ", printed)
    assert (tmp_path / "outputs/notebook/model.safetensors").is_file()
