from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.errors import UserError
from sft_speech.inference.shards import Shards, begin, fingerprint, join, weights

SETTINGS = {"model": "m", "format": "text"}


def heard(line: bytes) -> bool:
    return line == b"\n"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.txt"


def started(output, recordings: int, block: int) -> Shards:
    run = Shards(output, recordings, block)
    run.folder.mkdir()
    return run


def lines(first: int, stop: int) -> list[bytes]:
    return [f"{n}\n".encode() for n in range(first, stop)]


@given(st.data(), st.integers(1, 60), st.integers(1, 12), st.integers(1, 9))
def test_each_recording_is_dealt_out_once_for_any_number_of_processes(tmp_path_factory, data, recordings, block, world):
    run = started(tmp_path_factory.mktemp("run") / "out", recordings, block)
    done: set[int] = set()
    for start in range(0, recordings, block):  # of each block a part or two may be there
        stop = min(start + block, recordings)
        cuts = sorted({start, *data.draw(st.lists(st.integers(start, stop), max_size=2))})
        for first, last in pairwise(cuts):
            run.write(first, lines(first, last))
            done |= set(range(first, last))
    dealt = [run.missing(rank, world) for rank in range(world)]
    assert sorted(n for each in dealt for first, stop in each for n in range(first, stop)) == sorted(
        set(range(recordings)) - done
    )
    assert all(first // block == (stop - 1) // block for each in dealt for first, stop in each)


def test_blocks_are_dealt_in_turn(output):
    run = started(output, 10, 3)
    assert [run.missing(rank, 2) for rank in (0, 1)] == [[(0, 3), (6, 9)], [(3, 6), (9, 10)]]
    run.write(0, lines(0, 2))
    assert run.missing(0, 2) == [(2, 3), (6, 9)]
    assert run.missing() == [(2, 3), (3, 6), (6, 9), (9, 10)]


@pytest.mark.parametrize(("recordings", "world", "block"), [(100_000, 8, 512), (1000, 8, 7), (3, 8, 1), (100, 1, 6)])
def test_size_of_blocks(output, recordings, world, block):
    assert begin(output, SETTINGS, recordings, world, resume=False) == Shards(output, recordings, block)


def test_parts_become_the_file_in_order_without_bare_lines(output):
    run = started(output, 5, 2)
    run.write(4, [b"e\n"])
    run.write(2, [b"\n", b"d\n"])
    assert run.merge(heard) is None  # not all are there
    assert not output.exists()
    run.write(0, [b"a\n", b"b\n"])
    assert run.merge(heard) == 4
    assert output.read_bytes() == b"a\nb\nd\ne\n"
    assert [path.name for path in output.parent.iterdir()] == ["out.txt"]


def test_killed_amid_the_merge_loses_nothing(output):
    run = started(output, 4, 2)
    run.write(0, lines(0, 2))
    run.write(2, lines(2, 4))

    def killed(line: bytes) -> bool:
        if line == b"3\n":
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run.merge(killed)
    (run.folder / "0123456789abcdef").write_bytes(b"0\n1\n2")  # of one that had no time to clean up
    assert not output.exists()
    assert run.merge(heard) == 4
    assert output.read_bytes() == b"0\n1\n2\n3\n"


def test_killed_before_the_parts_are_removed(output):
    run = begin(output, SETTINGS, 2, 1, resume=False)
    run.write(0, lines(0, 1))
    run.write(1, lines(1, 2))
    output.write_bytes(b"0\n1\n")
    (output.parent / "out.txt.parts.done").mkdir()  # and that amid removing those of another run
    assert begin(output, SETTINGS, 2, 1, resume=True) is None
    assert [path.name for path in output.parent.iterdir()] == ["out.txt"]
    assert begin(output, SETTINGS, 2, 1, resume=True) is None


def test_two_that_put_the_parts_together_at_once(output):
    run = started(output, 2, 1)
    run.write(0, [b"0\n"])
    run.write(1, [b"1\n"])

    def overtaken(line: bytes) -> bool:
        if not output.exists():
            assert run.merge(heard) == 2
        return False

    with pytest.raises(FileNotFoundError):
        run.merge(overtaken)
    assert output.read_bytes() == b"0\n1\n"
    with pytest.raises(FileNotFoundError):
        run.write(0, [b"0\n"])


def test_a_part_that_is_not_what_was_written_is_written_again(output):
    run = started(output, 2, 2)
    run.write(0, lines(0, 2))
    (run.folder / "000000000-000000002.part").write_bytes(b"0\n")
    with pytest.raises(UserError, match="was changed after it was written"):
        run.merge(heard)
    assert not output.exists()
    assert run.missing() == [(0, 2)]


def test_what_is_there_is_not_overwritten(output):
    output.write_text("hours of work")
    with pytest.raises(UserError, match="it already exists"):
        begin(output, SETTINGS, 2, 1, resume=False)
    output.unlink()
    begin(output, SETTINGS, 2, 1, resume=False)
    begin(output, SETTINGS | {"format": "jsonl"}, 3, 1, resume=False).write(0, lines(0, 1))  # nothing was there yet
    with pytest.raises(UserError, match=r"unfinished run.\n-> continue with --resume"):
        begin(output, SETTINGS | {"format": "jsonl"}, 3, 1, resume=False)


def test_a_run_resumes_only_as_it_was_started(output):
    first = begin(output, SETTINGS, 9, 1, resume=True)
    first.write(0, lines(0, 1))
    assert begin(output, SETTINGS, 9, 8, resume=True) == first == join(output, SETTINGS)
    assert json.loads((first.folder / "run.json").read_text())["settings"] == SETTINGS
    for other in ({"model": "n"}, {"format": "jsonl"}):
        with pytest.raises(UserError, match=f"started with other {next(iter(other))}"):
            begin(output, SETTINGS | other, 9, 1, resume=True)


def test_the_others_wait_for_the_main_process(output):
    with pytest.raises(UserError, match="the main process has not started"):
        join(output, SETTINGS, patience_seconds=0.0)
    output.write_text("")  # so quick were the others that nothing is left to do
    assert join(output, SETTINGS) is None


def test_fingerprints(tmp_path):
    assert fingerprint(["a", "bc"]) == fingerprint(["a", "bc"])
    assert len({fingerprint(names) for names in (["a", "bc"], ["bc", "a"], ["ab", "c"], ["a"], ["\udcff"])}) == 5
    (tmp_path / "model.safetensors").write_bytes(b"123")
    (tmp_path / "notes.md").write_text("")
    ((name, size, _),) = weights(str(tmp_path))
    assert (name, size) == ("model.safetensors", 3)
    assert weights("owner/model-on-the-hub") == []
