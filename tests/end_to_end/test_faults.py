"""Kills, signals, full disks and damaged files: a resumed run ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sft_speech.errors import RESUMABLE
from sft_speech.training.checkpoints import last_whole


def assert_same(outcome, undisturbed, output: Path) -> None:
    assert outcome(output) == outcome(undisturbed[1])


def last_line(run) -> str:
    return run.output().strip().splitlines()[-1]


def awaits_evaluation(checkpoint: Path) -> bool:
    if not (checkpoint / "files.json").exists():
        return False
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["TrainerControl"]["args"]["should_evaluate"]


# ---- kill -9

# (event, path) at which each run is killed; each one resumes the one before.
IN_SAVING = [
    ("open", "checkpoint-4/config.json"),  # no weights yet
    ("open", "checkpoint-4/trainer_state.json"),  # all but the state, which is empty
    ("open", "checkpoint-4/files.json.*.part"),  # all but the list
    ("os.rename", "checkpoint-4/files.json.*.part"),  # the list still has its temporary name
    ("os.rename", "checkpoint-4/trainer_state.json.*.part"),  # evaluated, but the state does not say so yet
    ("open", "checkpoint-8/unlogged_0.pt"),
    ("shutil.rmtree", "checkpoint-4"),  # the new one is complete, the old one is being removed
    ("open", "checkpoint-12/preprocessor_config.json"),
    ("os.rename", "out/run.yaml.*.part"),  # at the start of a resumed run
    ("open", "checkpoint-16/files.json.*.part"),
    ("os.rename", "checkpoint-16/trainer_state.json.*.part"),  # the last evaluation
    ("open", "out/evaluation/dev-tones.jsonl"),
    ("open", "out/config.json"),  # the final save
    ("os.rename", "out/all_results.json.*.part"),
    ("open", "out/README.md"),
]


def test_killed_at_every_written_file(start, undisturbed, outcome, tmp_path):
    for event, path in IN_SAVING:
        run = start("--save_total_limit", "1", faults=[(event, path, "kill", "")])
        assert run.exit_code() == -signal.SIGKILL, f"{event} of {path} never came:\n{run.output()}"
    run = start("--save_total_limit", "1")
    assert run.exit_code() == 0, run.output()
    assert_same(outcome, undisturbed, tmp_path / "out")


def test_killed_at_random_moments(start, undisturbed, outcome, tmp_path):
    """A fast machine may finish before it is killed: then the next run starts in another directory."""
    rng, kills = random.Random(0), 0
    for directory in map(tmp_path.joinpath, "abcdefgh"):
        for longest in range(1, 30):
            run = start("--output_dir", str(directory), "--dataloader_num_workers", "1")
            run.process.join(rng.uniform(0, longest))
            run.process.kill()
            code = run.exit_code()
            assert code in (0, -signal.SIGKILL), run.output()
            if code == 0:
                break
            kills += 1
        assert_same(outcome, undisturbed, directory)
        if kills >= 3:
            return
    pytest.fail(f"killed only {kills} times")


# ---- signals


def test_stopped_during_training(start, undisturbed, outcome, tmp_path):
    """The signal comes between log lines and checkpoints, and twice: from the scheduler and from the launcher."""
    for step, signals in ((6, "term twice"), (9, "usr1 twice")):
        run = start(faults=[("step", f"after {step}", signals, "")])
        assert run.exit_code() == RESUMABLE, run.output()
        assert last_line(run).endswith(f"saved at step {step + 1}; resume with --resume_from_checkpoint auto")
    assert start().exit_code() == 0
    assert_same(outcome, undisturbed, tmp_path / "out")


def test_stopped_during_a_long_evaluation(start, undisturbed, outcome, tmp_path):
    """The first and the last evaluation are interrupted; the resumed run repeats them."""
    for step in (4, 16):
        slow, checkpoint = start(slow_evaluation=20), tmp_path / "out" / f"checkpoint-{step}"
        slow.wait_for(lambda checkpoint=checkpoint: awaits_evaluation(checkpoint))
        slow.send(signal.SIGTERM)
        assert slow.exit_code() == RESUMABLE, slow.output()
        assert awaits_evaluation(checkpoint), "the run waited for the evaluation"
        assert f"saved at step {step}" in last_line(slow)
        if step == 4:
            assert start(faults=[("open", "checkpoint-16/config.json", "kill", "")]).exit_code() == -signal.SIGKILL
    assert start().exit_code() == 0
    assert_same(outcome, undisturbed, tmp_path / "out")


def test_stopped_before_the_first_step_and_after_the_last(start, undisturbed, outcome, tmp_path):
    for at in (("os.rename", "out/corpus_report.json.*.part"), ("open", "out/evaluation/dev-tones.jsonl")):
        run = start(faults=[(*at, "term", "")])
        assert run.exit_code() == RESUMABLE, run.output()
        assert "resume with --resume_from_checkpoint auto" in last_line(run)
    assert start().exit_code() == 0
    assert_same(outcome, undisturbed, tmp_path / "out")


def test_a_finished_run_is_not_repeated(start, tmp_path):
    assert start("--max_steps", "1").exit_code() == 0
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert not figures.keys() & {"train_loss", "audio_seconds_per_second"}, "it was too short to log any"
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    for _ in range(2):
        run = start("--max_steps", "1")
        assert run.exit_code() == 0
        assert last_line(run).endswith("the run is finished; there is nothing left to do")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
    other = start("--max_steps", "2")
    assert other.exit_code() == 2
    assert "the run has finished, with another max_steps" in other.output()


# ---- disks


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 MB in a namespace: `folder` is its path inside, `outside` its path for this process."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=64m none {folder} && echo ready && exec sleep 600"
    holder = subprocess.Popen(["unshare", "-Urm", "sh", "-c", mount], stdout=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("users cannot mount file systems on this machine")
        yield SimpleNamespace(folder=folder, outside=Path(f"/proc/{holder.pid}/root{folder}"), pid=holder.pid)
    finally:
        holder.kill()
        holder.wait()


def inside(disk, *command: str) -> None:
    entered = ["nsenter", "--target", str(disk.pid), "--user", "--mount", "--preserve-credentials", *command]
    subprocess.run(entered, check=True)


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ("fill", "checkpoint-8/files.json.*.part"),
        ("fill", "out/config.json"),
        ("read-only", "checkpoint-8/config.json"),
    ],
)
def test_a_full_or_read_only_disk(start, undisturbed, outcome, disk, fault, path):
    """At the beginning or the end of a checkpoint, and at the final save."""
    output = ["--output_dir", str(disk.folder / "out")]
    where = str(disk.folder) if fault == "fill" else str(disk.folder / "out")
    run = start(*output, inside=disk.pid, faults=[("open", path, fault, where)])
    assert run.exit_code() == 2, run.output()
    assert "it could not be written (" in run.output()
    assert last_line(run).startswith("-> make room, then resume with --resume_from_checkpoint auto")
    assert "Traceback" not in run.output()
    if fault == "fill":
        (disk.outside / "filler").unlink()
    else:
        inside(disk, "umount", where)
    before = "checkpoint-16" if path == "out/config.json" else "checkpoint-4"
    whole = [file.parent.name for file in (disk.outside / "out").glob("checkpoint-*/files.json")]
    assert before in whole
    assert "checkpoint-8" not in whole
    again = start(*output, inside=disk.pid)
    assert again.exit_code() == 0, again.output()
    assert_same(outcome, undisturbed, disk.outside / "out")


def test_a_disk_too_full_for_trackers_and_indices(start, undisturbed, outcome, disk, tmp_path):
    """The index of the corpus, then TensorBoard's files cannot be written: the run continues without them."""
    board = {"TENSORBOARD_LOGGING_DIR": str(disk.folder / "board")}
    full, room, full_again = (
        (event, path, fault, str(disk.folder))
        for event, path, fault in (
            ("open", "out/.run.json", "fill"),
            ("os.rename", "out/corpus_report.json.*.part", "make room"),  # before TensorBoard begins
            ("open", "checkpoint-4/config.json", "fill"),
        )
    )
    settings = {"inside": disk.pid, "environment": board, "cache": disk.folder}
    run = start("--report_to", "tensorboard", faults=[full, room, full_again], **settings)
    assert run.exit_code() == 0, run.output()
    assert "the next run reads the headers again" in run.output()
    assert "TensorBoard failed" in run.output()
    assert_same(outcome, undisturbed, tmp_path / "out")


def test_an_output_directory_that_is_removed(start, undisturbed, outcome, tmp_path):
    """The run continues, and writes the model at its end."""
    run = start("--eval_steps", "8", faults=[("step", "after 9", "remove", str(tmp_path / "out"))])
    assert run.exit_code() == 0, run.output()
    assert "was emptied or removed during the run" in run.output()
    assert {"run.yaml", "config.json", "vocab.json", "README.md"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert outcome(tmp_path / "out")["losses"] == outcome(undisturbed[1])["losses"]


# ---- two runs


def test_two_runs_in_one_directory(start, undisturbed, outcome, tmp_path):
    """The workers of a killed run live for some more seconds; they do not block the next run."""
    first = start("--dataloader_num_workers", "2", faults=[("step", "after 6", "pause", "")])
    first.wait_for(lambda: (tmp_path / "out" / "checkpoint-4").exists())
    second = start()
    assert second.exit_code() == 2
    assert f"process {first.process.pid} on " in second.output()
    assert "is running in it" in second.output()
    first.send(signal.SIGKILL)
    first.exit_code()
    assert start().exit_code() == 0
    assert_same(outcome, undisturbed, tmp_path / "out")


# ---- checkpoints


DAMAGES = {
    "is missing": lambda file: file.unlink(),
    "bytes instead of": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "its checksum differs": lambda file: file.write_bytes(bytes(len(file.read_bytes()))),
}


def test_a_damaged_checkpoint_is_skipped(start, undisturbed, outcome, tmp_path, caplog):
    out = tmp_path / "out"
    assert start(faults=[("open", "checkpoint-12/config.json", "kill", "")]).exit_code() == -signal.SIGKILL
    names = set(json.loads((out / "checkpoint-8" / "files.json").read_text()))
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "unlogged_0.pt"} <= names
    assert names | {"trainer_state.json", "files.json"} == {path.name for path in (out / "checkpoint-8").iterdir()}
    for name in sorted(names):
        for words, damage in DAMAGES.items():
            copy = shutil.copytree(out, tmp_path / "copy")
            damage(copy / "checkpoint-8" / name)
            caplog.clear()
            assert last_whole(copy) == copy / "checkpoint-4"
            (message,) = (line for line in caplog.messages if "checkpoint-8" in line)
            assert f"is skipped: {name} " in message
            assert words in message
            shutil.rmtree(copy)

    moved = out.rename(tmp_path / "moved")
    DAMAGES["bytes instead of"](moved / "checkpoint-8" / "optimizer.pt")
    refused = start("--output_dir", str(moved), "--resume_from_checkpoint", str(moved / "checkpoint-8"))
    assert refused.exit_code() == 2
    assert "it is not a complete checkpoint: optimizer.pt has" in refused.output()
    run = start("--output_dir", str(moved))
    assert run.exit_code() == 0, run.output()
    assert "checkpoint-8 is skipped: optimizer.pt has" in run.output()
    assert_same(outcome, undisturbed, moved)


def test_a_damaged_best_checkpoint(start, tmp_path):
    """So few words are recognized yet that an early evaluation has the best WER."""
    keys, out = ("--metric_for_best_model", "wer"), tmp_path / "out"
    assert start(*keys, faults=[("open", "out/config.json", "kill", "")]).exit_code() == -signal.SIGKILL
    best = json.loads((out / "checkpoint-16" / "trainer_state.json").read_text())["best_global_step"]
    assert {path.name for path in out.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-16"}
    (out / f"checkpoint-{best}" / "model.safetensors").write_bytes(b"")
    run = start(*keys)
    assert run.exit_code() == 0, run.output()
    assert f"checkpoint-{best}, cannot be used: model.safetensors has 0 bytes" in run.output()
    assert f"the model is {out / 'checkpoint-16'}" in run.output()
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (out / "checkpoint-16" / "model.safetensors").read_bytes()
