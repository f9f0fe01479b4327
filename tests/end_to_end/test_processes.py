"""Several processes are one run.

They have the losses and weights of a single process, see every utterance once, and only one writes and prints. If one
fails, all end.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers.models.speecht5.modeling_speecht5 import SpeechT5SpeechDecoderPrenet

from sft_speech.cli import main
from sft_speech.training.checkpoints import last_whole

ASSETS = Path(__file__).parents[2] / "sft_speech" / "assets"
# An optimizer step is all of train-tones in four batches, one of them short: one to four processes can share it.
STEP = {"update_seconds": 50, "max_batch_seconds": 12.5}


def changed(arguments: list[str], **keys) -> list[str]:
    """Return a command line with other values for some of its options."""
    verb, *rest = arguments
    values = dict(zip(rest[::2], rest[1::2], strict=True)) | {f"--{key}": str(value) for key, value in keys.items()}
    return [verb, *(part for pair in values.items() for part in pair)]


def losses(output: Path) -> list[float]:
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def messages(lines: list[str]) -> list[str]:
    """Return the lines of the processes, without those of their launcher."""
    launcher = next((place for place, line in enumerate(lines) if line.startswith("E")), len(lines))
    return [line for line in lines[:launcher] if line.strip() and not re.match(r"[WE]\d{4} ", line)]


def assert_the_same(one: Path, other: Path) -> None:
    """Compare losses, weights and evaluation."""
    assert losses(other) == pytest.approx(losses(one), rel=1e-5)
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert_close(others, weights, rtol=1e-4, atol=1e-5)
    for file in (one / "evaluation").glob("*.jsonl"):
        lines, found = (sorted((folder / "evaluation" / file.name).read_text().splitlines()) for folder in (one, other))
        assert len({json.loads(line)["id"] for line in found}) == len(found)
        assert [json.loads(line)["id"] for line in lines] == [json.loads(line)["id"] for line in found]
    figures, others = (json.loads((folder / "all_results.json").read_text()) for folder in (one, other))
    errors = [name for name in figures if name.endswith(("wer", "cer", "loss"))]
    assert {name: others[name] for name in errors} == pytest.approx({name: figures[name] for name in errors}, rel=1e-4)


def recognition_command(arguments: list[str], output: Path) -> list[str]:
    """Return the command of a run whose evaluation data cannot be divided evenly."""
    keys = {"mask_time_prob": 0.3, "report_to": "tensorboard", "eval_split": "dev-tones:11"}
    keys |= {"keep_splits": "dev-tones:5", "interpolate": 0.5}
    return changed(arguments, **STEP, **keys, test_splits="train-tones:13", output_dir=output)


@pytest.fixture
def synthesis_command(tones, tmp_path):
    """A function that returns the command of a SpeechT5 run, without dropout."""
    model = shutil.copytree(ASSETS / "speecht5-small", tmp_path / "still")
    config = json.loads((model / "config.json").read_text())
    still = {key: 0.0 for key in config if key.endswith(("dropout", "layerdrop")) and isinstance(config[key], float)}
    (model / "config.json").write_text(json.dumps(config | still))
    keys = {"model": model, "source": tones, "train_split": "train-tones:16", "eval_split": "dev-tones:3"}
    keys |= {"update_seconds": 20, "max_batch_seconds": 10, "max_steps": 3, "eval_steps": 3, "logging_steps": 1}
    keys |= {"dataloader_num_workers": 0, "report_to": "none", "samples": 0, "learning_rate": 1e-3}
    return lambda output: changed(["finetune-tts"], **keys, output_dir=output)


def test_four_processes_are_one_run_until_one_of_them_is_killed(arguments, tmp_path, several_runs):
    one, four, hard, killed = (tmp_path / name for name in ("one", "four", "hard", "killed"))
    assert main(recognition_command(arguments, one)) == 0
    keys = {"layerdrop": 0.5, "freeze_encoder_steps": 2, "max_steps": 4, "eval_steps": 2, "max_batch_seconds": 2}
    keys |= {"interpolate": "auto"}
    runs = [
        {"arguments": recognition_command(arguments, four)},
        {"arguments": changed(arguments, **keys, gradient_checkpointing="true", output_dir=hard)},
        {"arguments": changed(arguments, dataloader_num_workers=1, output_dir=killed), "fault": "killed", "rank": 2},
    ]
    notes, lines = several_runs(4, runs)
    assert_the_same(one, four)
    first = [process[0] for process in notes]
    assert [process["batches"] for process in first] == [8] * 4
    assert sum(process["seconds"] for process in first) == pytest.approx(8 * 34.4)
    assert len(losses(hard)) == 4
    assert len(json.loads((hard / "all_results.json").read_text())["interpolation"]["curve"]) == 11
    # Only one process writes files, except the random states, which torch opens without an audit event.
    wrote = {re.sub(r"\.\w+\.part$", "", name) for name in first[0]["wrote"]}
    assert {"run.yaml", "all_results.json", "README.md"} <= wrote
    assert [process["wrote"] for process in first[1:]] == [[]] * 3
    assert len(list(four.rglob("events.out.tfevents.*"))) == 1
    # Only one process prints; the tables of the two evaluated splits may share lines.
    printed = messages(lines)
    whole = printed[: next(place for place, line in enumerate(printed) if line.startswith("done:"))]
    assert [line for line, count in Counter(whole).items() if count > 1 and not line.startswith((" ", "times"))] == []
    lost = [line for line in messages(lines) if "lost another one" in line]
    assert len(lost) == 1
    assert "Traceback" not in "".join(messages(lines))


def test_two_processes_are_one_run_until_one_of_them_fails(
    arguments, synthesis_command, tmp_path, several_runs, monkeypatch
):
    """If the loss of one process is NaN, neither takes the step.

    The fault that ends them is in a loader worker, whose traceback names the utterance.
    """
    monkeypatch.setattr(SpeechT5SpeechDecoderPrenet, "_consistent_dropout", lambda self, hidden, p: hidden)
    names = ("one", "two", "speech_of_one", "speech_of_two", "bad", "failing")
    one, two, speech_of_one, speech_of_two, bad, failing = (tmp_path / name for name in names)
    assert main(recognition_command(arguments, one)) == 0
    assert main(synthesis_command(speech_of_one)) == 0
    runs = [
        {"arguments": recognition_command(arguments, two)},
        {"arguments": synthesis_command(speech_of_two)},
        {"arguments": changed(arguments, max_steps=4, output_dir=bad), "fault": "bad step", "rank": 1},
        {"arguments": changed(arguments, dataloader_num_workers=1, output_dir=failing), "fault": "loader", "rank": 1},
    ]
    _, lines = several_runs(2, runs)
    assert_the_same(one, two)
    assert_the_same(speech_of_one, speech_of_two)

    (entry,) = map(json.loads, (bad / "bad_batches.jsonl").read_text().splitlines())
    assert entry["step"] == 3
    assert [(batch["process"], math.isnan(batch["loss"])) for batch in entry["batches"]] == [(0, False), (1, True)]
    assert json.loads((bad / "all_results.json").read_text())["skipped_steps"] == 1
    assert all(torch.isfinite(weights).all() for weights in load_file(bad / "model.safetensors").values())
    assert sum("step 3 is skipped, its gradient is not finite" in line for line in messages(lines)) == 1

    assert sum("ZeroDivisionError: made to fail" in line for line in messages(lines)) == 1
    assert re.search(r"^\[rank1\]: utterance \d-10-\d{4}$", "\n".join(lines), re.M)
    assert not [line for line in messages(lines) if line.startswith("[rank0]")]


@pytest.mark.slow
def test_a_run_resumes_after_any_failure_of_one_of_two_processes(arguments, tmp_path, several_runs):
    """Each launch first resumes the run that failed in the one before."""
    one, failed = tmp_path / "one", None
    run = changed(recognition_command(arguments, one), max_steps=4, eval_steps=2, report_to="none")
    run = changed(run, evaluate_before=False, keep_splits="[]")  # the first evaluation to fail is that of step 2
    assert main(run) == 0
    for fault in ("training", "evaluation", "killed"):
        output = tmp_path / fault
        resumed = [*changed(run, output_dir=failed), "--resume_from_checkpoint", "auto"]
        runs = [{"arguments": resumed}] if failed else []
        notes, lines = several_runs(
            2, [*runs, {"arguments": changed(run, output_dir=output), "fault": fault, "rank": 1}]
        )
        if failed:
            assert [process[-1]["code"] for process in notes] == [0, 0]
            assert_the_same(one, failed)
        if fault == "killed":
            assert sum("lost another one" in line for line in messages(lines)) == 1
            assert "Traceback" not in "".join(messages(lines))
        else:
            wrong = [line for line in messages(lines) if "ZeroDivisionError: made to fail" in line]
            assert wrong == ["[rank1]: ZeroDivisionError: made to fail"]
            assert not [line for line in messages(lines) if line.startswith("[rank0]") or "lost another one" in line]
        assert last_whole(output) == output / "checkpoint-2"
        failed = output


def test_one_of_two_processes_runs_out_of_memory(arguments, several_runs):
    _, lines = several_runs(2, [{"arguments": arguments, "fault": "memory", "rank": 1}])
    wrong = messages(lines)[messages(lines).index("a batch of step 3: it does not fit into memory.") :]
    assert wrong[1].startswith("-> lower max_batch_seconds")
    assert [line for line in wrong[2:] if "stopping after this step" not in line] == []


def test_two_processes_resume_the_run_of_one(arguments, tmp_path, two_processes):
    """They resume in the middle of an epoch; both epochs are complete, after fewer steps than with one process."""
    script, out = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py"), tmp_path / "out"
    assert main(changed(arguments, max_steps=4, eval_steps=2)) == 0
    (out / ".run.json").unlink()  # otherwise the run counts as finished
    run = changed(arguments, max_steps=-1, num_train_epochs=2, eval_steps=2, save_total_limit=9)
    two_processes(script, *run[1:], "--resume_from_checkpoint", "auto")
    begun, other = json.loads((last_whole(out) / "batch_plan.json").read_text())
    assert [begun[key] for key in ("world", "batches", "max_batch_seconds")] == [1, 4, 6.0]
    assert [other[key] for key in ("world", "max_batch_seconds")] == [2, 6.0]
    assert last_whole(out).name == f"checkpoint-{4 + other['batches']}"
    history = json.loads((out / "log_history.json").read_text())["log_history"]
    epochs = [entry["epoch"] for entry in history if "loss" in entry]
    assert epochs == sorted(epochs)
    assert epochs[3] < 1
    assert epochs[-1] == pytest.approx(2, abs=0.2)
