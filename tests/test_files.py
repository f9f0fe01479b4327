"""Files that are complete or absent."""

from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.files import check_output, new_folder, open_whole, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with open_whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), open_whole(path) as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_two_writers_of_the_same_path_do_not_mix(tmp_path):
    path = tmp_path / "out"
    with open_whole(path) as first, open_whole(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # its block ended last
    assert names(tmp_path) == ["out"]


def test_the_temporary_file_may_be_elsewhere(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with open_whole(tmp_path / "out", scratch=scratch) as file:
        file.write(b"new")
        [part] = names(scratch)
        assert part.endswith(".part")
        assert names(tmp_path) == ["scratch"]
    assert (tmp_path / "out").read_bytes() == b"new"
    assert names(scratch) == []


def test_texts_may_hold_names_that_are_not_utf8(tmp_path):
    write_whole(tmp_path / "out", "é \udcff\n")
    assert (tmp_path / "out").read_bytes() == "é \\udcff\n".encode()


def test_an_output_needs_a_folder(tmp_path):
    check_output("-o", str(tmp_path / "file"))
    for unfit in (tmp_path, tmp_path / "nowhere" / "file"):
        with pytest.raises(UserError, match="must be a file in a folder that exists"):
            check_output("-o", str(unfit))


def test_a_new_folder_is_complete_or_absent(tmp_path):
    path = tmp_path / "deep" / "out"
    with new_folder(path) as part:
        (part / "a").write_text("a")
        assert not path.exists()
    assert names(path) == ["a"]
    with pytest.raises(IsADirectoryError), new_folder(tmp_path / "other") as part:
        part.write_text("a")
    assert names(tmp_path) == ["deep"]
    assert names(path.parent) == ["out"]


def test_a_new_folder_replaces_nothing(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(UserError, match="already exists"), new_folder(path):  # made by another process meanwhile
        path.mkdir()
    with pytest.raises(UserError, match="already exists"), new_folder(path):
        pass
    assert names(tmp_path) == ["out"]
