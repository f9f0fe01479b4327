"""Large tables in files: the same content, no memory of one's own, whole or not at all."""

from __future__ import annotations

import os
import pickle
import signal
import time

import datasets
import pyarrow as pa
import pytest

from sft_speech.corpora import mapped as module
from sft_speech.corpora.mapped import DAYS, mapped
from sft_speech.corpora.rows import column_of


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1000)


def table(rows: int = 50_000, first: int = 0) -> pa.Table:
    numbers = range(first, first + rows)
    return pa.table({"id": [f"utterance {n}" for n in numbers], "seconds": [n / 7 if n % 3 else None for n in numbers]})


def names(folder) -> list[str]:
    return [path.name for path in (folder / "sft_speech").glob("*")]


def test_few_rows_stay_where_they_are(tmp_path):
    kept = mapped(table(999), tmp_path)
    assert isinstance(kept, datasets.table.InMemoryTable)
    assert kept.table == table(999)
    assert list(tmp_path.iterdir()) == []


def test_many_rows_take_no_memory(tmp_path):
    before = pa.total_allocated_bytes()
    kept = mapped(table(), tmp_path)
    assert pa.total_allocated_bytes() - before < 10_000
    assert kept.table == table()
    assert isinstance(kept, datasets.table.MemoryMappedTable)


def test_a_corpus_travels_as_the_name_of_its_file(tmp_path):
    corpus = datasets.Dataset(mapped(table(), tmp_path), fingerprint="f").select([3, 40_000])
    sent = pickle.dumps(corpus)
    assert len(sent) < 5000
    assert pickle.loads(sent)[:] == {"id": ["utterance 3", "utterance 40000"], "seconds": [None, 40_000 / 7]}


def test_a_file_per_content_however_it_is_chunked(tmp_path):
    mapped(table(), tmp_path)
    (name,) = names(tmp_path)
    written = os.stat(tmp_path / "sft_speech" / name).st_ino
    mapped(pa.concat_tables([table(20_000), table(30_000, 20_000)]).combine_chunks(), tmp_path)
    assert names(tmp_path) == [name]
    assert os.stat(tmp_path / "sft_speech" / name).st_ino == written, "it was written again"
    assert mapped(table(first=1), tmp_path).table == table(first=1)
    assert len(names(tmp_path)) == 2


def test_a_file_that_is_not_whole_has_no_name(tmp_path, monkeypatch, caplog):
    def full(table, file):
        if hasattr(file, "name"):
            file.write(b"the first half")
            raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", full)
        assert mapped(table(), tmp_path).table == table()
    assert names(tmp_path) == []
    assert "no space left" in caplog.text
    mapped(table(), tmp_path)
    assert len(names(tmp_path)) == 1


def test_a_damaged_file_is_made_again(tmp_path, caplog):
    mapped(table(), tmp_path)
    (name,) = names(tmp_path)
    file = tmp_path / "sft_speech" / name
    file.write_bytes(file.read_bytes()[:1000])
    assert mapped(table(), tmp_path).table == table()
    assert "cannot be used" in caplog.text
    again = mapped(table(), tmp_path)
    assert isinstance(again, datasets.table.MemoryMappedTable)
    assert again.table == table()


def test_a_cache_that_can_not_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert mapped(table(), tmp_path / "file").table == table()
    assert "cannot be used" in caplog.text


def test_what_nobody_asked_for_in_a_month_is_removed(tmp_path):
    kept = mapped(table(), tmp_path)
    (old,) = names(tmp_path)
    ago = time.time() - (DAYS + 1) * 86_400
    os.utime(tmp_path / "sft_speech" / old, (ago, ago))
    (tmp_path / "sft_speech" / "headers-0.parquet").touch()
    os.utime(tmp_path / "sft_speech" / "headers-0.parquet", (ago, ago))
    mapped(table(first=1), tmp_path)
    assert old not in names(tmp_path)
    assert len(names(tmp_path)) == 2
    assert kept.table == table(), "who has it mapped keeps it"


def test_what_is_asked_for_stays(tmp_path):
    mapped(table(), tmp_path)
    (old,) = names(tmp_path)
    ago = time.time() - (DAYS + 1) * 86_400
    os.utime(tmp_path / "sft_speech" / old, (ago, ago))
    mapped(table(), tmp_path)
    mapped(table(first=1), tmp_path)
    assert old in names(tmp_path)


def test_a_column_of_rows_that_were_selected_makes_no_objects_of_them(tmp_path):
    corpus = datasets.Dataset(mapped(table(), tmp_path), fingerprint="f")
    assert column_of(corpus, "id") == corpus.data.column("id")
    before = pa.total_allocated_bytes()
    seconds = column_of(corpus.select(range(0, 50_000, 2)), "seconds")
    assert seconds.to_pylist() == table()["seconds"].to_pylist()[::2]
    assert pa.total_allocated_bytes() - before < 25_000 * 8 * 1.5


WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from sft_speech.corpora import headers, mapped

folder, event, name = sys.argv[1:]

def kill(happens, args):
    if happens == event and Path(str(args[0])).name.startswith(name) and str(args[0]).endswith(".part"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
index = Path(folder) / "sft_speech" / "headers-1.parquet"
row = pa.table([[1], [16000], [16000], [1], [None], [None]], headers.SCHEMA)
headers.save(row, index)
rows = mapped.mapped(pa.table({"number": np.arange(mapped.LARGE)}), folder)
print(len(headers.load(index)), rows["number"][-1].as_py(), type(rows).__name__)
"""


def test_killed_while_it_writes_it_leaves_nothing_that_the_next_one_trips_over(tmp_path, run_python):
    """kill -9 at the index of headers and at the rows: where the file is begun, and where it only lacks its name."""
    for event, name in (("os.rename", "headers-"), ("open", "rows-"), ("os.rename", "rows-")):
        assert run_python(WRITER, str(tmp_path), event, name)[0] == -signal.SIGKILL
        assert not list(tmp_path.glob("sft_speech/rows-*.arrow"))
    _, printed, errors = run_python(WRITER, str(tmp_path), "", "")
    assert printed == "1 19999 MemoryMappedTable\n", errors
