"""The grammar of splits, and the rows that a range takes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.corpora.splits import Part, parse_split
from sft_speech.errors import UserError


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        (None, [Part()]),
        ("dev-clean", [Part("dev-clean")]),
        ("a+b", [Part("a"), Part("b")]),
        ("1h/0 + 9h", [Part("1h/0"), Part("9h")]),
        (":0.9", [Part(upper=0.9)]),
        ("[0.9:]", [Part(lower=0.9)]),
        ("a:0.1+b[10:20]", [Part("a", upper=0.1), Part("b", lower=10, upper=20)]),
        ("speaker=anna,bob", [Part(speakers=("anna", "bob"))]),
        ("speaker=anna:100", [Part(speakers=("anna",), upper=100)]),
        ("train.clean.100", [Part("train.clean.100")]),
    ],
)
def test_grammar(split, parts):
    assert parse_split(split) == parts


@pytest.mark.parametrize("split", ["", "a+", ":", ":1.5", "a[0.1]", "0.9:", "speaker=", ":1.2.3", "a:b", "a[::2]"])
def test_what_is_not_of_the_grammar(split):
    with pytest.raises(UserError, match=r"e\.g\. "):
        parse_split(split)


def mask(split: str, ids: list[str], speakers: list[str] | None = None) -> np.ndarray:
    (part,) = parse_split(split)
    speakers = speakers or [""] * len(ids)
    return part.mask(
        pa.chunked_array([pa.array(ids, pa.string())]), pa.chunked_array([pa.array(speakers, pa.string())])
    )


@given(st.lists(st.text(max_size=5), unique=True, max_size=60), st.floats(0, 1))
def test_two_ranges_part_the_rows(ids, bound):
    first, rest = mask(f":{bound:.4f}", ids), mask(f"[{bound:.4f}:]", ids)
    assert (first ^ rest).all()
    assert first.sum() == round(float(f"{bound:.4f}") * len(ids))


@given(st.lists(st.text(max_size=5), unique=True, max_size=60), st.integers(0, 80))
def test_a_count_takes_that_many_and_a_larger_one_only_adds(ids, count):
    few, more = mask(f":{count}", ids), mask(f":{count + 5}", ids)
    assert few.sum() == min(count, len(ids))
    assert (few <= more).all()


@given(st.lists(st.text(max_size=5), unique=True, max_size=40), st.randoms())
def test_the_order_of_the_rows_does_not_matter(ids, random):
    chosen = {id for id, taken in zip(ids, mask(":0.5", ids), strict=True) if taken}
    shuffled = random.sample(ids, len(ids))
    assert {id for id, taken in zip(shuffled, mask(":0.5", shuffled), strict=True) if taken} == chosen


def test_a_range_is_spread_over_the_rows():
    chosen = np.flatnonzero(mask(":0.1", [f"clip-{number}" for number in range(1000)]))
    assert 400 < chosen.mean() < 600


def test_speakers():
    speakers = ["anna", "bob", "anna", "eve"]
    assert mask("speaker=anna,eve", list("abcd"), speakers).tolist() == [True, False, True, True]
    assert mask("speaker=anna,eve:1", list("abcd"), speakers).sum() == 1
    with pytest.raises(UserError, match="did you mean 'anna'"):
        mask("speaker=ana", list("abcd"), speakers)
