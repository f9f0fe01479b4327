"""Which files a table of somebody else can name."""

from __future__ import annotations

import json
import os

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError


@pytest.fixture
def corpus(tmp_path, write):
    """`corpus(names, ...)`: the ids kept and the reasons of those dropped, of a manifest in the folder `corpus`."""
    write("corpus/own.wav")
    write("private.wav")
    write("elsewhere/far.wav")

    def load(*names, folder=tmp_path / "corpus", table="table.jsonl"):
        lines = [json.dumps({"audio": str(name), "text": "a", "id": str(number)}) for number, name in enumerate(names)]
        (folder / table).write_text("\n".join(lines))
        report = CorpusReport()
        source = folder if table.startswith("metadata") else folder / table
        kept = list(load_corpus(source, name="c", report=report)["id"])
        return kept, {row.id: row.reason for row in report.dropped("c") if row.reason != "no transcript"}

    return load


@pytest.mark.parametrize("table", ["table.jsonl", "metadata.jsonl"])
def test_a_relative_path_stays_in_the_folder_an_absolute_one_is_open(tmp_path, corpus, table):
    (tmp_path / "corpus/sub").mkdir()
    names = ["own.wav", "sub/../own.wav", "../private.wav", "sub/../../private.wav", tmp_path / "private.wav"]
    kept, dropped = corpus(*names, table=table)
    assert kept == ["0", "1", "4"]
    assert dropped == {"2": "outside the corpus folder", "3": "outside the corpus folder"}


def test_links_that_lead_out_are_not_followed(tmp_path, corpus):
    folder = tmp_path / "corpus"
    (folder / "link.wav").symlink_to(tmp_path / "private.wav")
    (folder / "twice.wav").symlink_to("link.wav")
    (folder / "inner.wav").symlink_to("own.wav")
    (folder / "far").symlink_to("../elsewhere")
    kept, dropped = corpus("link.wav", "twice.wav", "inner.wav", "far/far.wav", "far/../private.wav")
    assert kept == ["2"]
    assert set(dropped.values()) == {"outside the corpus folder"}


def test_neighbors_with_the_same_beginning_are_outside(tmp_path, corpus, write):
    write("corpus2/a.wav")
    assert corpus("own.wav", "../corpus2/a.wav")[1] == {"1": "outside the corpus folder"}


def test_what_is_not_there_is_missing(corpus):
    assert corpus("own.wav", "gone.wav", "gone/gone.wav")[1] == {"1": "missing file", "2": "missing file"}


def test_the_source_may_be_a_link_itself(tmp_path, corpus):
    (tmp_path / "link").symlink_to("corpus")
    assert corpus("own.wav", folder=tmp_path / "link") == (["0"], {})


@pytest.mark.parametrize(
    ("top", "store"),
    [("hub/snapshots/abc", "hub/blobs/1f"), ("corpus", ".git/annex/objects/1f"), ("corpus/part", ".dvc/cache/1f")],
)
def test_links_into_a_store_of_contents_are_fine(tmp_path, corpus, write, top, store):
    write(f"{store}.wav")
    write("hub2/blobs/other.wav")
    folder = tmp_path / top
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.wav").symlink_to(os.path.relpath(tmp_path / f"{store}.wav", folder))
    (folder / "b.wav").symlink_to(tmp_path / "hub2/blobs/other.wav")
    assert corpus("a.wav", "b.wav", folder=folder) == (["0"], {"1": "outside the corpus folder"})


def test_the_way_out_is_told(tmp_path, corpus):
    with pytest.raises(UserError, match=r"\.\./private\.wav is outside .*corpus; .*write its absolute path"):
        corpus("../private.wav")


def test_nothing_of_a_file_that_is_no_audio_is_told(tmp_path, corpus):
    (tmp_path / "secret.wav").write_text("the password is swordfish")
    with pytest.raises(UserError) as told:
        corpus(tmp_path / "secret.wav")
    assert "swordfish" not in str(told.value)
