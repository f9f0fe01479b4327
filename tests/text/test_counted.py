"""Singular and plural."""

from __future__ import annotations

from sft_speech.text.counted import counted


def test_only_one_is_singular():
    assert [counted(number, "usable row") for number in (0, 1, 2)] == ["0 usable rows", "1 usable row", "2 usable rows"]
    assert counted(12_345, "batch") == "12,345 batches"
    assert counted(1, "batch") == "1 batch"
    assert [counted(number, "row is", "rows are") for number in (1, 2)] == ["1 row is", "2 rows are"]
