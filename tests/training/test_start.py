"""How processes come to the same: the main one makes it, the others are given it; turns; the output directory."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from sft_speech.errors import UserError
from sft_speech.training import start
from sft_speech.training.lock import OutputLock
from sft_speech.training.start import from_main


@pytest.fixture
def sent(monkeypatch):
    """What the main process has broadcast; the others then receive it."""
    letters: list[list[bytes]] = []

    def broadcast(objects):
        if objects != [b""] or not letters:
            letters.append(list(objects))
        return letters[-1]

    monkeypatch.setattr(start, "broadcast_object_list", broadcast)
    monkeypatch.setattr(start, "gather_object", lambda own: own)
    return letters


MAIN, OTHER = (
    SimpleNamespace(num_processes=2, is_main_process=main, is_local_main_process=main) for main in (True, False)
)


def never():
    raise AssertionError("it was made twice")


def test_what_the_main_process_makes_is_what_all_have(sent):
    assert from_main(MAIN, lambda: {"train": [1, 2]}) == {"train": [1, 2]}
    assert from_main(OTHER, never) == {"train": [1, 2]}
    assert len(sent) == 1


def test_one_process_sends_nothing(sent):
    assert from_main(SimpleNamespace(num_processes=1, is_main_process=True), lambda: 7) == 7
    assert sent == []


def test_where_it_fails_the_others_end_without_a_word(sent):
    with pytest.raises(ZeroDivisionError):
        from_main(MAIN, lambda: 1 // 0)
    with pytest.raises(SystemExit):
        from_main(OTHER, never)


class OfThisMachine:
    """Mapped from a file that the other machine doesn't have."""

    def __reduce__(self):
        return open, ("/no/such/rows.arrow",)


def test_on_another_machine_it_is_made_again(sent):
    from_main(MAIN, OfThisMachine)
    assert from_main(OTHER, lambda: "made here") == "made here"


def test_on_another_machine_one_process_makes_it_before_the_others(monkeypatch):
    letters, posted, order = [], threading.Event(), []

    def broadcast(objects):
        if objects != [b""]:
            letters.append(objects)
            posted.set()
        assert posted.wait(10)
        return letters[0]

    monkeypatch.setattr(start, "broadcast_object_list", broadcast)
    monkeypatch.setattr(start, "gather_object", Meeting(len(RANKS)).gather)

    def run(rank):
        processes = SimpleNamespace(
            num_processes=4, is_main_process=RANKS[rank][0], is_local_main_process=RANKS[rank][1]
        )
        return from_main(processes, lambda: order.append(rank) or OfThisMachine())

    with ThreadPoolExecutor(len(RANKS)) as threads:
        assert all(isinstance(made, OfThisMachine) for made in threads.map(run, range(len(RANKS))))
    assert order[:2] == [0, 2]


# Ranks of two machines with two processes each: is it the main process, is it its machine's first?
RANKS = ((True, True), (False, False), (False, True), (False, False))


class Meeting:
    """What `gather_object` is between processes, between threads."""

    def __init__(self, members: int) -> None:
        self.door = threading.Barrier(members)
        self.said = []

    def gather(self, own):
        self.said += own
        self.door.wait(10)
        heard = list(self.said)
        if self.door.wait(10) == 0:
            self.said.clear()
        self.door.wait(10)
        return heard


def take_turns(monkeypatch, failing=None):
    """The order in which the ranks went, and with what each ended."""
    monkeypatch.setattr(start, "gather_object", Meeting(len(RANKS)).gather)
    order = []

    def run(rank):
        processes = SimpleNamespace(is_main_process=RANKS[rank][0], is_local_main_process=RANKS[rank][1])
        try:
            with start.main_first(processes):
                order.append(rank)
                if rank == failing:
                    raise UserError("corpus", "it isn't on this machine", "copy it")
        except BaseException as error:
            return error
        return None

    with ThreadPoolExecutor(len(RANKS)) as threads:
        ends = list(threads.map(run, range(len(RANKS))))
    return order, ends


def test_the_main_process_goes_first_then_one_of_the_other_machine(monkeypatch):
    order, ends = take_turns(monkeypatch)
    assert order[:2] == [0, 2]
    assert sorted(order[2:]) == [1, 3]
    assert ends == [None] * 4


@pytest.mark.parametrize(("failing", "went"), [(0, {0}), (2, {0, 2}), (3, {0, 1, 2, 3})])
def test_where_one_fails_the_others_end_without_a_word(monkeypatch, failing, went):
    order, ends = take_turns(monkeypatch, failing)
    assert set(order) == went
    for rank, end in enumerate(ends):
        assert isinstance(end, UserError if rank == failing else SystemExit)
        assert rank == failing or end.code == 2


def test_an_output_directory_that_another_machine_does_not_see(tmp_path):
    with pytest.raises(UserError, match="does not see it"):
        start.check_seen(tmp_path / "out")
    start.check_seen(tmp_path)


def begun(output, resume):
    with contextlib.closing(OutputLock(output)) as lock:
        return start.begin(SimpleNamespace(resume_from_checkpoint=resume), output, lock)


def test_auto_goes_on_where_it_can_and_begins_where_it_cannot(tmp_path, checkpoint):
    out = tmp_path / "out"
    assert begun(out, "auto") == start.Beginning()
    assert not out.exists(), "nothing was written"
    out.mkdir()
    (out / "run.yaml").write_text("seed: 1\n")
    assert begun(out, "auto") == start.Beginning(), "a run that came to no checkpoint"
    with pytest.raises(UserError, match=r"holds another run \(run.yaml\)"):
        begun(out, None)
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        begun(out, "true")
    four = checkpoint(out, 4)
    assert begun(out, "auto") == begun(out, "true") == begun(out, str(four)) == start.Beginning(four)
    with pytest.raises(UserError, match="or resume with --resume_from_checkpoint auto"):
        begun(out, None)


def test_auto_does_not_take_a_model_for_a_run(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UserError, match=r"holds another run \(model.safetensors\)") as refused:
        begun(tmp_path, "auto")
    assert refused.value.do.endswith(f"or start from its model: --model {tmp_path} --output_dir NEW")
