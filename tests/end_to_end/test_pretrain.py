"""The command `sft-speech pretrain`: its files, the weights that it trains, resuming, processes, what it refuses."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_pretraining
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, Wav2Vec2ForPreTraining

from sft_speech.cli import main
from sft_speech.tasks import task_of
from sft_speech.tasks.pretraining.pieces import piece_counts

RATE = 16_000


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """A folder of 24 recordings without transcripts: of 0.5 to 1 s, and two of 3 s."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    lengths = [*rng.integers(8000, 16000, 22).tolist(), 48000, 48000]
    for number, samples in enumerate(lengths):
        time = np.arange(samples) / RATE
        pitches = 200 * rng.integers(1, 8, -(-samples // 1600)).repeat(1600)[:samples]
        wave = 0.3 * np.sin(2 * np.pi * pitches * time) + rng.normal(0, 0.01, samples)
        (folder / f"{number % 3}").mkdir(exist_ok=True)
        soundfile.write(folder / f"{number % 3}" / f"{number:02}.flac", wave, RATE)
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """A tiny wav2vec 2.0 with a quantizer."""
    return tiny_pretraining.saved(tmp_path_factory.mktemp("pretrained"))


def line(recordings: Path, pretrained: Path, output: Path, **keys) -> list[str]:
    """Return the command of a run of six steps of two batches."""
    settings = {"model": pretrained, "source": recordings, "train_split": ":20", "eval_split": "[20:]"}
    settings |= {"output_dir": output, "max_steps": 6, "eval_steps": 2, "logging_steps": 1, "save_total_limit": 9}
    settings |= {"min_seconds": 0.3, "max_seconds": 1.0, "max_batch_seconds": 3, "gradient_accumulation_steps": 2}
    settings |= {"mask_time_length": 4, "num_negatives": 6, "learning_rate": 1e-3, "gumbel_start": 2.0}
    settings |= {"dataloader_num_workers": 0, "report_to": "none"}
    return ["pretrain", *(f"--{key}={value}" for key, value in (settings | keys).items())]


DROPOUT = {"hidden_dropout": 0.1, "feat_proj_dropout": 0.1, "layerdrop": 0.2}


@pytest.fixture(scope="module")
def finished(recordings, pretrained, tmp_path_factory) -> Path:
    """The output of a run with dropout."""
    output = tmp_path_factory.mktemp("run") / "out"
    assert main(line(recordings, pretrained, output, **DROPOUT)) == 0
    return output


@pytest.fixture
def command(recordings, pretrained, tmp_path):
    """A function that returns the command of a run into ``out``."""
    return lambda **keys: line(recordings, pretrained, tmp_path / "out", **keys)


def history(output: Path) -> list[dict]:
    return json.loads((output / "log_history.json").read_text())["log_history"]


def test_a_run_trains_every_weight_and_is_saved_for_plain_transformers(finished, pretrained):
    out = finished
    before, after = load_file(pretrained / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name, weights in before.items() if torch.equal(weights, after[name])] == []
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Wav2Vec2ForPreTraining"]
    plain = AutoModelForPreTraining.from_pretrained(out)
    assert type(plain) is Wav2Vec2ForPreTraining
    assert (out / "preprocessor_config.json").is_file()
    lines = [entry for entry in history(out) if "loss" in entry]
    assert len(lines) == 6
    assert {"contrastive_loss", "accuracy", "code_perplexity", "prob_perplexity", "same_negatives"} <= lines[0].keys()
    for entry in lines:
        parts = entry["contrastive_loss"] + 0.1 * entry["diversity_loss"] + 10 * entry["feature_square"]
        assert entry["loss"] == pytest.approx(parts, rel=1e-4)
        assert 2 <= entry["code_perplexity"] <= 10
    temperatures = [entry["gumbel_temperature"] for entry in lines]
    assert temperatures == pytest.approx([2 * 0.25 ** min(1, step / (0.69 * 6)) for step in range(6)])


def test_the_files_of_a_run(finished):
    out = finished
    figures = json.loads((out / "all_results.json").read_text())
    losses = [entry["eval_loss"] for entry in history(out) if "eval_loss" in entry]
    assert len(losses) == 4, "before step 1, and three times"
    assert figures["before_eval_loss"] == losses[0]
    assert figures["eval_loss"] == pytest.approx(min(losses[1:]))
    evaluation = json.loads((out / "evaluation" / "20-end.json").read_text())
    assert evaluation["loss"] == figures["eval_loss"]
    assert evaluation["codes"] == 10
    rows = [json.loads(line) for line in (out / "evaluation" / "20-end.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert evaluation["contrastive_loss"] == pytest.approx(
        sum(row["loss"] for row in rows) / sum(row["masked"] for row in rows), rel=1e-3
    )
    card = (out / "README.md").read_text()
    assert "pre-trained for later fine-tuning on" in card
    assert "| accuracy % |" in card
    assert "![codebook](plots/codebook.png)" in card
    assert (out / "plots" / "codebook.png").stat().st_size > 1000
    assert task_of(out).name == "pretraining"


def test_evaluate_gives_the_figures_of_the_run(finished, tmp_path, recordings, capsys):
    out = finished
    line = ["evaluate", str(out), "--source", str(recordings), "--split", "[20:]", "-o", str(tmp_path / "again")]
    assert main([*line, "--max_batch_seconds", "1", "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "again" / "evaluation" / "20-end.json").read_text())
    figures = json.loads((out / "all_results.json").read_text())
    for name in ("loss", "contrastive_loss", "accuracy", "code_perplexity"):
        assert again[name] == pytest.approx(figures[f"eval_{name}"], rel=1e-4), name
    assert "nats per masked frame" in capsys.readouterr().out


def test_a_killed_run_resumes_to_the_same_weights(finished, command, tmp_path, faulty_run):
    """With dropout; in the middle of an epoch; the temperature, too, is that of its step."""
    again = command(**DROPOUT, output_dir=tmp_path / "killed")
    at = ("open", "checkpoint-4/files.json.*.part", "kill", "")
    assert faulty_run(again, faults=[at]).exit_code() == -signal.SIGKILL
    assert main([*again, "--resume_from_checkpoint=auto"]) == 0
    killed, whole = tmp_path / "killed", finished
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    timing = ("audio_seconds_per_second", "seconds_per_update", "cpu_seconds_per_update", "peak_bytes")
    ours, theirs = (
        [{key: value for key, value in entry.items() if key not in timing} for entry in history(one) if "loss" in entry]
        for one in (killed, whole)
    )
    assert ours == theirs


def test_two_processes_are_one_run(command, tmp_path, two_processes):
    """Each process takes one of the two batches of a step."""
    assert main(command(max_batch_seconds=4, update_seconds=8, gradient_accumulation_steps=1)) == 0
    script = str(Path(__file__).parents[2] / "scripts" / "pretrain.py")
    line = command(max_batch_seconds=4, update_seconds=8, gradient_accumulation_steps=1, output_dir=tmp_path / "two")
    two_processes(script, *line[1:])
    one, two = (history(tmp_path / name) for name in ("out", "two"))
    evaluations = [[entry["eval_loss"] for entry in log if "eval_loss" in entry] for log in (one, two)]
    assert evaluations[0][0] == pytest.approx(evaluations[1][0], rel=1e-5), "before step 1"
    assert len(evaluations[1]) == 4
    losses = [entry["loss"] for entry in two if "loss" in entry]
    assert len(losses) == 6


def test_a_recognizer_is_fine_tuned_from_it(finished, tmp_path, tones):
    keys = {"model": finished, "source": tones, "train_split": "train-tones", "eval_split": "dev-tones"}
    keys |= {"output_dir": tmp_path / "asr", "max_steps": 2, "max_batch_seconds": 6, "report_to": "none"}
    keys |= {"mask_time_length": 2, "dataloader_num_workers": 0, "new_vocabulary": "true"}
    assert main(["finetune-asr", *(f"--{key}={value}" for key, value in keys.items())]) == 0
    pretrained, tuned = (load_file(folder / "model.safetensors") for folder in (finished, tmp_path / "asr"))
    name = "wav2vec2.feature_extractor.conv_layers.0.conv.weight"  # frozen
    assert torch.equal(pretrained[name], tuned[name])
    assert "lm_head.weight" in tuned
    assert "quantizer.codevectors" not in tuned


def test_a_checkpoint_without_a_quantizer_gets_one(command, tmp_path, small, caplog):
    """A fine-tuned recognizer, which has no quantizer: no penalty then, and the temperature begins at 2."""
    with caplog.at_level(logging.INFO):
        assert main([one for one in command(model=small, mask_time_length=2) if "gumbel_start" not in one]) == 0
    assert "new weights, random until trained: quantizer, project_hid, project_q" in caplog.text
    assert "train: 20 recordings in 24 pieces of at most 1 s" in caplog.text
    assert "temperature of the quantizer: 2 to 0.5" in caplog.text
    entry = next(entry for entry in history(tmp_path / "out") if "loss" in entry)
    assert entry["loss"] == pytest.approx(entry["contrastive_loss"] + 0.1 * entry["diversity_loss"], rel=1e-4)
    assert not any("before_eval_loss" in one for one in history(tmp_path / "out"))
    plain = AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert plain.quantizer.codevectors.shape == (1, 640, 128)


def test_a_conformer(command, tmp_path):
    model = tiny_pretraining.saved(tmp_path / "conformer", "wav2vec2-conformer")
    assert main(command(model=model, max_steps=2)) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Wav2Vec2ConformerForPreTraining"]
    assert AutoModelForPreTraining.from_pretrained(tmp_path / "out").config.model_type == "wav2vec2-conformer"


def test_from_scratch_and_lora(command, tmp_path, pretrained):
    assert main(command(from_scratch="true", max_steps=2)) == 0
    assert main(command(lora_rank=2, max_steps=2, output_dir=tmp_path / "lora")) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained, tmp_path / "lora"))
    assert before.keys() == after.keys()
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert moved
    assert all("encoder.layers" in name for name in moved)


def test_another_family_is_refused(command, tmp_path, capsys):
    from transformers import HubertConfig, HubertModel

    sizes = {name: value for name, value in tiny_pretraining.SIZES.items() if "code" not in name}
    HubertModel(HubertConfig(**sizes)).save_pretrained(tmp_path / "hubert")
    assert main(command(model=tmp_path / "hubert")) == 2
    error = capsys.readouterr().err
    assert "transformers has no self-supervised loss for a hubert model" in error
    assert "take one of wav2vec2, wav2vec2-conformer" in error


def test_what_is_too_short_is_dropped_with_a_reason(command, tmp_path, capsys):
    assert main(command(min_seconds=0.6)) == 2
    assert "too short" in capsys.readouterr().err
    assert main(command(min_seconds=0.6, max_dropped_share=0.9)) == 0
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())
    assert report["train"]["kept"]["rows"] < 20


def test_a_temperature_that_rises_is_refused(command, capsys):
    assert main(command(gumbel_start=0.1)) == 2
    assert "the temperature only falls" in capsys.readouterr().err


def test_a_mix_takes_recordings_that_need_not_be_cut(command, tmp_path, recordings):
    sources = [{"source": str(recordings / name), "weight": 1.0} for name in ("0", "1")]
    line = [one for one in command(max_dropped_share=0.3) if "source=" not in one and "split=" not in one]
    assert main([*line, f"--sources={json.dumps(sources)}"]) == 0
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())
    assert {name: part["kept"]["rows"] for name, part in report.items()} == {"0": 8, "1": 7}
    assert piece_counts([3.0], 1.0).tolist() == [3]
