"""Which checkpoints are whole, which are kept, which one is the best."""

from __future__ import annotations

import errno
import os

import pytest

from sft_speech.errors import UserError
from sft_speech.training import checkpoints
from sft_speech.training.checkpoints import best_whole, damage, disk_errors, last_whole, rotate


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def change(file):
    file.write_bytes(b"x" * len(file.read_bytes()))


def test_whole_until_it_is_touched(tmp_path, checkpoint):
    assert damage(checkpoint(tmp_path, 3)) is None


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model.safetensors", os.unlink, "model.safetensors is missing"),
        ("model.safetensors", cut, "model.safetensors has 20 bytes instead of 21"),
        ("pieces/__0_0.distcp", change, "pieces/__0_0.distcp is not what was written (its checksum differs)"),
        ("trainer_state.json", os.unlink, "trainer_state.json is missing"),
        ("trainer_state.json", cut, "trainer_state.json cannot be read"),
        ("files.json", os.unlink, "it was not written to its end (files.json is missing)"),
        ("files.json", cut, "files.json cannot be read"),
        ("files.json", change, "files.json cannot be read"),
    ],
)
def test_damage_is_told_by_the_file(tmp_path, checkpoint, caplog, name, harm, said):
    before, folder = checkpoint(tmp_path, 2), checkpoint(tmp_path, 3)
    harm(folder / name)
    assert damage(folder) == said
    assert last_whole(tmp_path) == before
    assert caplog.messages == [f"{folder} is skipped: {said}"]


def test_the_newest_by_its_number(tmp_path, checkpoint):
    assert last_whole(tmp_path / "nowhere") is None
    ten = [checkpoint(tmp_path, step) for step in (9, 10, 2)][1]
    (tmp_path / "checkpoint-best").mkdir()
    assert last_whole(tmp_path) == ten


def test_the_last_whole_ones_and_the_best_one_are_kept(tmp_path, checkpoint):
    for step, whole in ((1, True), (2, False), (3, True), (9, False), (4, True)):
        os.utime(checkpoint(tmp_path, step, whole), (step, step))
    rotate(tmp_path, 2, best=str(tmp_path / "checkpoint-1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-4"]


def test_the_last_ones_are_told_by_their_step_not_by_their_age(tmp_path, checkpoint):
    """As after a copy of the directory, which writes them in any order."""
    for age, step in enumerate((1000, 200, 30, 4)):  # the last step has the oldest time
        os.utime(checkpoint(tmp_path, step), (10_000 * (1 + age),) * 2)
    rotate(tmp_path, 2, best=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1000", "checkpoint-200"]
    rotate(tmp_path, 1, best=str(tmp_path / "checkpoint-200"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1000", "checkpoint-200"]
    rotate(tmp_path, 1, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1000"]


def test_the_best_of_those_that_are_whole(tmp_path, checkpoint):
    history = [{"step": step, "eval_wer": wer} for step, wer in ((1, 0.5), (2, 0.1), (3, 0.3))] + [{"step": 3}]
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step)
    assert best_whole(tmp_path, history, "eval_wer") == tmp_path / "checkpoint-2"
    cut(tmp_path / "checkpoint-2" / "model.safetensors")
    assert best_whole(tmp_path, history, "eval_wer") == tmp_path / "checkpoint-3"
    assert best_whole(tmp_path, [], "eval_wer") is None
    assert best_whole(tmp_path, history, "eval_wer", greater_is_better=True) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos: file write failed\nmore"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_in_the_words_of_each_library(tmp_path, error):
    with pytest.raises(UserError, match="could not be written") as caught, disk_errors(tmp_path, "go on"):
        raise error
    assert str(caught.value).count("\n") == 1


def test_other_errors_keep_their_words(tmp_path):
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path, "go on"):
        raise ZeroDivisionError


def test_a_checkpoint_that_goes_loses_its_list_first(tmp_path, checkpoint, monkeypatch):
    folder = checkpoint(tmp_path, 1)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)  # killed before it comes to that
    checkpoints.remove(folder)
    assert damage(folder) == "it was not written to its end (files.json is missing)"
