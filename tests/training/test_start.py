"""How processes come to the same: the main one makes it, the others are given it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sft_speech.training import start
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
    return letters


MAIN, OTHER = (SimpleNamespace(num_processes=2, is_main_process=main) for main in (True, False))


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
