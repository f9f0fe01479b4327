"""One run at a time: with real processes in `tests/end_to_end/test_faults.py`."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest

from sft_speech.errors import UserError
from sft_speech.training.lock import FILE, OutputLock

HOLD = """import sys
from pathlib import Path
from sft_speech.training.lock import OutputLock
OutputLock(Path(sys.argv[1])).hold()
"""


@pytest.fixture
def lock(tmp_path):
    lock = OutputLock(tmp_path / "new" / "out")
    lock.hold()
    yield lock
    lock.close()


def try_to_hold(folder) -> str:
    """Of another process: what it says."""
    return subprocess.run([sys.executable, "-c", HOLD, str(folder)], capture_output=True, text=True).stderr


def test_another_process_is_told_who_holds_it(lock):
    said = try_to_hold(lock.folder)
    assert f"process {os.getpid()} on {os.uname().nodename} is running in it" in said
    lock.close()
    assert try_to_hold(lock.folder) == ""


def test_a_directory_that_was_removed_is_made_and_held_again(lock):
    shutil.rmtree(lock.folder)
    lock.hold()
    assert "is running in it" in try_to_hold(lock.folder)


def test_a_directory_that_another_run_has_made_meanwhile(lock):
    shutil.rmtree(lock.folder)
    code = f"{HOLD}print('held', flush=True)\nsys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(lock.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {other.pid} on "):
        lock.hold()
    other.communicate("")


def test_what_is_left_in_it(lock):
    assert json.loads(lock.file.read_text()) == {"host": os.uname().nodename, "pid": os.getpid()}
    lock.mark(finished=True)
    assert lock.file.read_text() == '{"finished": true}'
    again = OutputLock(lock.folder)
    again.hold()
    assert again.found == {"finished": True}
    again.close()


def test_a_disk_that_knows_no_locks(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    OutputLock(tmp_path).hold()
    assert "cannot be locked (No locks available): make sure that no other run writes to it" in caplog.text


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        OutputLock(tmp_path / "file" / "out").hold()


def test_a_refused_run_leaves_nothing_that_it_created(tmp_path):
    lock = OutputLock(tmp_path / "new" / "out")
    lock.hold()
    lock.mark(finished=False)
    assert lock.file.is_file()
    lock.close()
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_leaves_a_directory_as_it_was(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    lock = OutputLock(tmp_path)
    lock.hold()
    lock.close()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_lock_file_stays_once_something_was_written(lock):
    (lock.folder / "corpus_report.json").write_text("{}")
    lock.close()
    assert sorted(path.name for path in lock.folder.iterdir()) == [FILE, "corpus_report.json"]


def test_the_lock_file_of_an_earlier_run_stays(tmp_path):
    (tmp_path / FILE).write_text('{"finished": true}')
    lock = OutputLock(tmp_path)
    lock.hold()
    lock.close()
    assert (tmp_path / FILE).is_file()


def test_the_lock_file_of_a_later_run_in_the_same_place_stays(lock):
    shutil.rmtree(lock.folder)
    lock.folder.mkdir()
    lock.file.write_text("of another run")
    lock.close()
    assert lock.file.read_text() == "of another run"
