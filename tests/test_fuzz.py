"""Fuzz every reader for a second; `scripts/fuzz.py` does it for longer."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_speech.tasks.asr.config import FinetuneAsrConfig

spec = importlib.util.spec_from_file_location("fuzzing", Path(__file__).with_name("fuzzing.py"))
fuzzing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzzing)

KEYS = list(FinetuneAsrConfig.__dataclass_fields__)
EDGES = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\n",
    b'"',
    b"..",
    b"/",
    b"\xed\xa0\x80",
    b"\x1b[2J",
    b"",
]


def fed(target: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, fuzzing.limited():
        fuzzing.TARGETS[target].read(data, Path(folder))


@st.composite
def mutated(draw, target: str) -> bytes:
    """Draw a seed of a target with some bytes overwritten, repeated, inserted or removed."""
    data = bytearray(draw(st.sampled_from(fuzzing.TARGETS[target].seeds())))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        stop = place + draw(st.sampled_from([0, 1, 2, 4, 8, 64, len(data)]))
        piece = draw(st.one_of(st.sampled_from(EDGES), st.binary(max_size=8), st.just(bytes(data[place:stop]) * 2)))
        data[place:stop] = piece
    return bytes(data[: 1 << 16])


quick = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_whole_inputs_are_read(target: str) -> None:
    """The seeds reach the readers."""
    for seed in fuzzing.TARGETS[target].seeds():
        fed(target, seed)


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_damaged_inputs_are_refused_with_a_message(target: str) -> None:
    @quick
    @given(st.one_of(mutated(target), mutated(target), st.binary(max_size=200)))
    def check(data: bytes) -> None:
        fed(target, data)

    check()


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)


@quick
@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=5))
def test_options_of_any_type(run: dict) -> None:
    needed = {"model": "m", "source": "s", "output_dir": "o"}
    fed("settings", yaml.safe_dump(needed | run, allow_unicode=True).encode("utf-8", "surrogatepass"))


columns = st.sampled_from(["audio", "text", "speaker", "id", "start", "end", "duration", "file_name", ""])
json_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.lists(st.integers(), max_size=2),
    st.sampled_from(["a.wav", "../a.wav", "/etc/passwd", "a.wav/", "nan", "inf", "1e400", "-1", "a\0b", "\ud800"]),
)  # fmt: skip


@quick
@given(st.lists(st.dictionaries(columns, json_values, max_size=6), min_size=1, max_size=5))
def test_rows_of_any_values(rows: list[dict]) -> None:
    rows = [{"audio": "a.wav", "text": "x"} | row for row in rows]
    fed("manifest", b"\2" + "\n".join(map(json.dumps, rows)).encode())


@quick
@given(
    st.from_regex(r"[a-z.=,]{0,8}(:[0-9.]{0,25}|\[[0-9.]{0,25}:[0-9.]{0,25}\])?(\+[a-z:0-9.]{0,9})?", fullmatch=True)
)
def test_nearly_valid_splits(text: str) -> None:
    fed("split", text.encode())


def test_a_hang_is_detected() -> None:
    with pytest.raises(TimeoutError), fuzzing.limited(0.05):
        time.sleep(5)
