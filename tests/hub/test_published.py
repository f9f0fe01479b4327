"""Names are published, local paths are not."""

from __future__ import annotations

import pytest

from sft_speech.hub.provenance import is_on_disk
from sft_speech.hub.published import on_hub, published, published_command


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ("/disk/anna/clients/acme.csv", "acme.csv"),
        ("~/corpus", "corpus"),
        ("../corpora/acme/", "acme"),
        ("data/acme/corpus.csv", "corpus.csv"),
        ("data/corpus.csv", "corpus.csv"),
        (r"C:\Users\anna\corpus", "corpus"),
        ("facebook/wav2vec2-base", "facebook/wav2vec2-base"),
        ("gpt2", "gpt2"),
        ("train-clean-100+train-clean-360", "train-clean-100+train-clean-360"),
        (["/disk/anna/one", 2, None, True], ["one", 2, None, True]),
        ({"lm": "/disk/anna/4-gram.arpa", "weight": 0.5}, {"lm": "4-gram.arpa", "weight": 0.5}),
    ],
)
def test_paths_are_cut_to_their_last_part(value, public):
    assert published(value) == public


def test_a_path_that_looks_like_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "clients" / "acme").mkdir(parents=True)
    assert on_hub("clients/acme")
    assert published("clients/acme", on_disk=True) == "acme"  # recorded when the run began
    monkeypatch.chdir(tmp_path)
    assert not on_hub("clients/acme")
    assert published("clients/acme") == "acme"


def test_a_command_line():
    line = [
        "finetune-asr",
        "--config",
        "configs/asr/demo.yaml",
        "--source=/disk/anna/x.csv",
        "--model",
        "a/b",
        "--bf16",
    ]
    public = ["finetune-asr", "--config", "demo.yaml", "--source=x.csv", "--model", "a/b", "--bf16"]
    assert published_command(line, frozenset()) == public
    assert published_command(["--model", "a/b", "--source", "c/d"], frozenset({"source"})) == [
        "--model",
        "a/b",
        "--source",
        "d",
    ]


def test_a_command_line_with_tables():
    tables = "[test, {source: /disk/anna/acme, split: dev}, {source: a/b}]"
    public = "[test, {source: acme, split: dev}, {source: a/b}]"
    assert published_command(["--keep_splits", tables, f"--keep_splits={tables}"], frozenset()) == [
        "--keep_splits",
        public,
        f"--keep_splits={public}",
    ]
    assert published_command(["--keep_splits", "{source: a/b}"], frozenset({"keep_splits"}))[1] == "{source: b}"
    assert published_command(["--test_splits", "[150:]"], frozenset()) == ["--test_splits", "[150:]"]


def test_tables_with_a_source_on_this_disk(tmp_path):
    assert is_on_disk([{"split": "a"}, {"source": str(tmp_path)}])
    assert is_on_disk(str(tmp_path))
    assert not is_on_disk([{"split": "a"}, {"source": "a/b"}, "c"])
    assert published([{"source": "clients/acme"}], on_disk=True) == [{"source": "acme"}]
