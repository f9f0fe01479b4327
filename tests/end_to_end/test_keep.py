"""Runs that watch what they might forget, and that save a mean of their weights at the start and at the end."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from sft_speech import finetune, load_corpus
from sft_speech.cli import main
from sft_speech.training.interpolation import ROUNDING, START

SHORT = ["--max_steps", "4", "--eval_steps", "2"]
RECOGNIZES = ["--max_steps", "40", "--eval_steps", "20", "--learning_rate", "3e-3", "--metric_for_best_model", "loss"]


def results(output: Path) -> dict:
    return json.loads((output / "all_results.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def best(output: Path) -> Path:
    state = json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())
    return output / Path(state["best_model_checkpoint"]).name


@pytest.fixture
def command(arguments, tones) -> list[str]:
    """A run of four steps that keeps two splits and chooses a share."""
    tables = f"['dev-tones:4', {{source: {tones}, split: 'dev-tones[4:9]'}}]"
    return [*arguments, *SHORT, "--keep_splits", tables, "--interpolate", "auto"]


def test_what_is_to_be_kept_is_everywhere(command, tmp_path, caplog):
    caplog.set_level("INFO", "sft_speech")
    assert main([*command, "--evaluate_before", "false"]) == 0
    out, names = tmp_path / "out", ["keep_LibriSpeech_dev-tones_4", "keep_LibriSpeech_dev-tones_4_9"]
    found = results(out)
    for name in names:
        lines, before = ((out / "evaluation" / folder / f"{name}.jsonl").read_text() for folder in ("", "before"))
        assert len(lines.splitlines()) == len(before.splitlines()) == (4 if name == names[0] else 5)
        figures = json.loads((out / "evaluation" / f"{name}.json").read_text())
        assert found[f"{name}_wer"] == figures["wer"]
        assert f"before_{name}_wer" in found
    assert "before_eval_wer" not in found, "what it keeps needs the figures before, whatever evaluate_before is"
    assert [row["split"] for row in found["keep"]] == names
    row = found["keep"][0]
    assert row["difference"] == row["after"] - row["before"]
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    (table,) = [one for one in caplog.messages if one.startswith("to keep")]
    assert [line.split()[0] for line in table.splitlines()[1:]] == names
    assert table.splitlines()[0].split() == ["to", "keep", "WER", "%", "before", "trained", "after", "difference"]
    card = (out / "README.md").read_text()
    assert "| dev-tones:4 (before fine-tuning) | LibriSpeech | 4 | 0.00 |" in card
    assert "| dev-tones[4:9] | LibriSpeech | 5 |".replace("[", r"\[").replace("]", r"\]") in card
    assert "## What it kept" in card
    assert str(tmp_path) not in card
    assert "{source: LibriSpeech, split: " in card, "the command line stays one"


def test_the_share_is_chosen_on_the_evaluation_split(command, tmp_path):
    assert main([*command, "--test_splits", "dev-tones:3"]) == 0
    out = tmp_path / "out"
    found = results(out)["interpolation"]
    assert [row["share"] for row in found["curve"]] == [n / 10 for n in range(11)]
    assert found["curve"][0]["wer"] == results(out)["before_eval_wer"]
    assert found["curve"][-1]["wer"] == found["unmixed"]["eval_wer"]
    lowest = min(row["wer"] for row in found["curve"])
    good = [row["share"] for row in found["curve"] if row["difference"] <= row["standard_error"] * ROUNDING]
    assert found["share"] == min(good)
    assert min(row["difference"] for row in found["curve"]) == 0
    assert results(out)["eval_wer"] == next(row["wer"] for row in found["curve"] if row["share"] == found["share"])
    assert results(out)["eval_wer"] >= lowest
    assert found["not_mixed"] == []
    assert set(found["unmixed"]) >= {"keep_LibriSpeech_dev-tones_4_wer", "eval_loss"}
    assert not [name for name in found["unmixed"] if name.startswith("dev-tones")], "no test split is looked at twice"
    assert (out / "plots" / "interpolation.png").stat().st_size > 1000
    assert "## Interpolation" in (out / "README.md").read_text()
    assert not (out / START).exists()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_saved_weights_are_the_mean(arguments, small, tmp_path, share, caplog):
    assert main([*arguments, *SHORT, "--interpolate", str(share)]) == 0
    out = tmp_path / "out"
    start, end, found = weights(small), weights(best(out)), weights(out)
    assert found.keys() == end.keys()
    for name, one in found.items():
        if share == 0.25:
            assert_close(one, start[name] + 0.25 * (end[name] - start[name]))
        else:
            assert torch.equal(one, (end if share else start)[name]), name
    assert results(out)["interpolation"]["rule"] == "given"
    assert ("has none of the training" in caplog.text) == (share == 0)


def test_the_figures_are_those_of_the_saved_model(command, tones, tmp_path):
    """The evaluation of the directory gives the figures of the run."""
    assert main([*command, *RECOGNIZES, "--interpolate", "0.7"]) == 0
    out = tmp_path / "out"
    place = ["--source", str(tones), "--split", "dev-tones"]
    assert main(["evaluate", str(out), *place, "-o", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "evaluation" / "dev-tones.json").read_text())
    assert (again["wer"], again["cer"]) == (results(out)["eval_wer"], results(out)["eval_cer"])
    assert again["loss"] == pytest.approx(results(out)["eval_loss"])
    assert results(out)["interpolation"]["unmixed"]["eval_loss"] != results(out)["eval_loss"]


def test_a_new_head_keeps_its_trained_weights(arguments, small, tmp_path):
    assert main([*arguments, *SHORT, "--new_vocabulary", "--interpolate", "0.5"]) == 0
    out = tmp_path / "out"
    start, end, found = weights(small), weights(best(out)), weights(out)
    assert results(out)["interpolation"]["not_mixed"] == ["lm_head.weight", "lm_head.bias"]
    assert torch.equal(found["lm_head.weight"], end["lm_head.weight"])
    name = "wav2vec2.encoder.layers.0.attention.k_proj.weight"
    assert_close(found[name], (start[name] + end[name]) / 2)


@pytest.mark.parametrize(
    "fault",
    [
        ("open", "evaluation/keep_*.json", "kill", ""),
        ("os.rename", "all_results.json.*.part", "kill", ""),
        ("open", "out/README.md", "kill", ""),
    ],
    ids=["figures", "results", "card"],
)
def test_a_run_killed_in_its_final_phase_has_the_same_end(command, small, tmp_path, faulty_run, fault):
    """The checkpoint may even be another one by then: the run has its weights as they were."""
    model = shutil.copytree(small, tmp_path / "model")
    run = [*command, "--model", str(model)]
    assert main([*run, "--output_dir", str(tmp_path / "undisturbed")]) == 0
    assert faulty_run(run, faults=[fault]).exit_code() == -signal.SIGKILL
    out = tmp_path / "out"
    assert (out / START).is_file()
    save_file({name: torch.zeros_like(one) for name, one in weights(model).items()}, model / "model.safetensors")
    assert main([*run, "--resume_from_checkpoint", "auto"]) == 0
    assert not (out / START).exists()
    whole, resumed = (results(folder) for folder in (tmp_path / "undisturbed", out))
    assert resumed["interpolation"] == whole["interpolation"]
    assert resumed["keep"] == whole["keep"]
    found, expected = weights(out), weights(tmp_path / "undisturbed")
    assert all(torch.equal(one, expected[name]) for name, one in found.items())


def test_resuming_does_not_need_the_file_of_the_start(command, tmp_path):
    run = [*command, "--interpolate", "0.5"]
    assert main(run) == 0
    out = tmp_path / "out"
    expected = weights(out)
    (out / ".run.json").unlink()
    assert main([*run, "--resume_from_checkpoint", "auto"]) == 0
    assert all(torch.equal(one, expected[name]) for name, one in weights(out).items())


def test_a_split_that_is_forgotten_is_named_with_advice(arguments, tones, tmp_path, caplog):
    """The rate is far too high, and the model that is kept is the last."""
    keys = ["--keep_splits", "dev-tones", "--eval_split", "null", "--learning_rate", "10", "--warmup_steps", "0"]
    run = [*arguments, *SHORT, *keys, "--metric_for_best_model", "loss"]
    assert main(run) == 0
    (warning,) = [one.message for one in caplog.records if "by more than the noise" in one.message]
    assert warning == (
        "keep_LibriSpeech_dev-tones: worse than before training, by more than the noise. Try `interpolate: auto`, "
        "replay of such data through `sources`, `lora_rank: 8`, or fewer parts by `train`"
    )
    assert results(tmp_path / "out")["keep"][0]["worse"] is True


def test_splits_that_select_are_only_used_for_that(arguments, tmp_path):
    table = "{split: 'dev-tones:4', select: 'dev-tones[4:]'}"
    assert main([*arguments, *SHORT, "--keep_splits", table, "--interpolate", "auto"]) == 0
    found = results(tmp_path / "out")
    assert found["interpolation"]["rule"].endswith("the best on select_LibriSpeech_dev-tones_4")
    good = [row for row in found["interpolation"]["curve"] if row["difference"] <= row["standard_error"] * ROUNDING]
    chosen = min(good, key=lambda row: (row["select"], row["share"]))
    assert found["interpolation"]["share"] == chosen["share"]
    assert not [name for name in found if name.startswith(("select", "before_select"))]
    assert not list((tmp_path / "out" / "evaluation").rglob("select*"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--new_vocabulary", "--keep_splits", "dev-tones"], "keep_splits: the head of the model is new"),
        (["--keep_splits", "nowhere"], "there is no split 'nowhere'"),
        (["--keep_splits", "{source: /no/such/corpus}"], "/no/such/corpus"),
        (["--keep_splits", "{source: EMPTY}"], "an empty corpus: it lists no utterance"),
        (["--keep_splits", "{source: UNREADABLE}"], "corpus keep_unreadable"),
    ],
)
def test_what_cannot_be_kept(arguments, tmp_path, capsys, keys, message):
    empty, unreadable = tmp_path / "empty.csv", tmp_path / "unreadable.csv"
    empty.write_text("path,text\n")
    unreadable.write_text("path,text\nnothing.wav,AH\n")
    keys = [key.replace("EMPTY", str(empty)).replace("UNREADABLE", str(unreadable)) for key in keys]
    assert main([*arguments, *SHORT, *keys]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.yaml").exists()


def test_a_split_that_is_trained_on_too(arguments, tones, tmp_path, caplog):
    keys = ["--keep_splits", f"{{source: {tones}/../LibriSpeech, split: 'train-tones:5'}}"]
    assert main([*arguments, *SHORT, *keys]) == 0
    assert "keep_LibriSpeech_train-tones_5: 5 of its 5 utterances are trained on as well" in caplog.messages


def test_from_python(tones, small, tmp_path):
    train, kept = load_corpus(tones, "train-tones"), load_corpus(tones, "dev-tones:5")
    options = {"max_steps": 2, "eval_steps": 1, "max_batch_seconds": 6, "dataloader_num_workers": 0}
    options |= {"report_to": "none", "mask_time_length": 2, "interpolate": 0.5}
    result = finetune(str(small), train=train, keep={"mine": kept}, output_dir=tmp_path / "out", **options)
    assert [row["split"] for row in result.metrics["keep"]] == ["keep_mine"]
    assert result.metrics["interpolation"]["share"] == 0.5
    assert "keep_mine_wer" in result.metrics["interpolation"]["unmixed"]


def test_a_model_that_is_already_trained_gets_the_share_that_its_run_would_have_chosen(
    arguments, tones, small, tmp_path, caplog
):
    run = [*arguments, *SHORT, "--interpolate"]
    assert main([*run, "auto"]) == 0
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    assert main([*run, "1", "--output_dir", str(whole)]) == 0
    place = ["--source", str(tones), "--split", "dev-tones", "--max_batch_seconds", "6"]
    assert main(["interpolate", str(small), str(whole), "-o", str(mixed), *place]) == 0
    expected, found = (
        results(tmp_path / "out")["interpolation"],
        json.loads((mixed / "interpolation.json").read_text()),
    )
    assert (found["share"], found["curve"], found["rule"]) == tuple(expected[key] for key in ("share", "curve", "rule"))
    assert (mixed / "interpolation.png").is_file()
    assert_close(weights(mixed), weights(tmp_path / "out"))
    assert main(["evaluate", str(mixed), *place[:4], "-o", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize("kind", [[], ["--use_dora"]], ids=["lora", "dora"])
def test_a_share_of_low_rank_updates(arguments, small, tmp_path, kind):
    """The adapter beside the model is that of its share."""
    run = [*arguments, *SHORT, "--lora_rank", "4", "--learning_rate", "1e-2", *kind, "--interpolate"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*run, "1", "--output_dir", str(whole)]) == 0
    assert main([*run, "0.25"]) == 0
    start, end, found = weights(small), weights(whole), weights(out)
    assert results(out)["interpolation"]["not_mixed"] == []
    moved = 0
    for name, one in found.items():
        assert_close(one, start[name] + 0.25 * (end[name] - start[name]))
        moved += not torch.equal(end[name], start[name])
    assert moved == 12, "the layers of attention and feed-forward"
    assert (out / "adapter").exists() == (not kind)
    if not kind:
        merged = tmp_path / "merged"
        assert main(["merge", str(out / "adapter"), "--base", str(small), "-o", str(merged)]) == 0
        assert_close(weights(merged), found)
