"""The scan of headers, and the index that spares it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.corpora import headers


@pytest.fixture
def probed(monkeypatch):
    """The files that are opened."""
    probe, opened = headers.probe, []

    def spy(audio):
        opened.append(os.path.basename(audio))
        return probe(audio)

    monkeypatch.setattr(headers, "probe", spy)
    return opened


@pytest.fixture
def files(tmp_path, write):
    return [str(write(f"{number:03d}.wav", 0.1 * number)) for number in range(1, 4)]


def test_headers_in_the_order_of_the_paths(tmp_path, files, caplog):
    caplog.set_level("INFO")
    (tmp_path / "text.wav").write_text("no audio")
    table = headers.scan_files([files[2], str(tmp_path / "gone.wav"), files[0], str(tmp_path / "text.wav")], None)
    assert table["samples"].to_pylist() == [4800, 0, 1600, 0]
    assert table["reason"].to_pylist() == [None, "missing file", None, "not audio"]
    assert "headers: 3 read, 0 known, 1 missing, in " in caplog.text


def test_unchanged_files_are_not_opened_again(tmp_path, files, probed, write):
    index = tmp_path / "cache" / "index.parquet"
    first = headers.scan_files(files, index)
    assert sorted(probed) == ["001.wav", "002.wav", "003.wav"]
    probed.clear()
    assert headers.scan_files(files, index) == first
    assert headers.scan_files(files[::-1], index) == first.take([2, 1, 0])
    assert probed == []

    write("002.wav", 0.5)  # changed
    new = str(write("004.wav", 0.4))  # added
    os.remove(files[0])
    table = headers.scan_files([*files, new], index)
    assert sorted(probed) == ["002.wav", "004.wav"]
    assert table["samples"].to_pylist() == [0, 8000, 4800, 6400]
    assert table["reason"].to_pylist() == ["missing file", None, None, None]
    assert [path.name for path in index.parent.iterdir()] == ["index.parquet"]


def test_a_file_of_the_same_size_that_changed_is_read_again(tmp_path, files, probed, write):
    index = tmp_path / "index.parquet"
    headers.scan_files(files, index)
    probed.clear()
    os.utime(files[1], ns=(0, 0))
    headers.scan_files(files, index)
    assert probed == ["002.wav"]


def test_what_could_not_be_read_is_tried_again(tmp_path, probed):
    (tmp_path / "text.m4a").write_bytes(b"\0\0\0\x20ftypM4A torchcodec may be installed one day")
    for _ in range(2):
        table = headers.scan_files([str(tmp_path / "text.m4a")], tmp_path / "index.parquet")
        assert table["reason"].to_pylist() == ["unreadable"]
    assert probed == ["text.m4a", "text.m4a"]


def test_a_damaged_index_is_made_again(tmp_path, files, caplog):
    index = tmp_path / "index.parquet"
    first = headers.scan_files(files, index)
    index.write_bytes(index.read_bytes()[:100])
    assert headers.scan_files(files, index) == first
    assert "read again" in caplog.text
    assert headers.load(index) == first


def test_an_index_that_can_not_be_written_stops_nothing(tmp_path, files, caplog):
    (tmp_path / "file").touch()
    assert headers.scan_files(files, tmp_path / "file" / "index.parquet")["samples"].to_pylist() == [1600, 3200, 4800]
    assert "cannot be written" in caplog.text


def test_silence_is_a_reason(write):
    import numpy as np

    path = str(write("silent.wav", samples=np.zeros(1000, np.float32)))
    assert headers.scan_files([path], None)["reason"].to_pylist() == ["silent"]


def test_no_files():
    assert len(headers.scan_files([], None)) == 0


@given(st.lists(st.integers(), max_size=50), st.integers(1, 7))
def test_threads_keep_the_order(items, block):
    results = headers.in_threads(lambda block: [2 * item for item in block], items, block=block)
    assert [item for block in results for item in block] == [2 * item for item in items]
    assert all(len(block_) <= block for block_ in results)


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        headers.in_threads(lambda block: 1 // 0, [1])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    headers_found = headers.scan_files([str(tmp_path / "a.wav")], None)
    assert headers_found["reason"].to_pylist() == ["missing file"]


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path, files):
    old, new = (tmp_path / f"headers-{name}.parquet.7.part" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"PAR1")
    os.utime(old, (0, 0))
    headers.scan_files(files, tmp_path / "headers-1.parquet")
    assert (tmp_path / "headers-1.parquet").is_file()
    assert (old.exists(), new.exists()) == (False, True)


def test_files_with_wrong_headers_are_named_once_by_defect(tmp_path, write, caplog):
    for number in range(5):
        path = write(f"{number}.wav", 0.1)
        wav = path.read_bytes()
        path.write_bytes(wav[:40] + bytes(4) + wav[44:] if number else wav + wav)
    paths = [str(tmp_path / f"{number}.wav") for number in range(5)]
    for _ in range(2):  # read, and from the index
        caplog.clear()
        table = headers.scan_files(paths, tmp_path / "index.parquet")
        assert table["samples"].to_pylist() == [3200, 1600, 1600, 1600, 1600]
        assert table["reason"].to_pylist() == [None] * 5
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
            f"1 file: 2 recordings joined in one file: all of them are read ({paths[0]})",
            "4 files: its header gives a wrong length: all that it holds is read "
            f"({paths[1]}, {paths[2]}, {paths[3]} and 1 more)",
        ]


def test_what_is_no_audio_is_dropped_as_what_it_is(tmp_path, write):
    (tmp_path / "lfs.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    (tmp_path / "page.wav").write_bytes(b"<!doctype html><title>404</title>")
    table = headers.scan_files([str(tmp_path / "lfs.wav"), str(tmp_path / "page.wav")], None)
    assert table["reason"].to_pylist() == ["not audio", "not audio"]
    assert table["detail"].to_pylist() == [
        "a Git LFS pointer, not the recording: git lfs pull",
        "a web page: download the recording again",
    ]
