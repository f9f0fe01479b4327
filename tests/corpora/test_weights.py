"""Weights of utterances: columns of tables and datasets."""

from __future__ import annotations

import json

import pytest

from sft_speech.corpora import load_corpus, rows_of_dataset
from sft_speech.corpora.rows import features
from sft_speech.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def manifest(tmp_path, write):
    """Return a function that writes a manifest of rows a, b, ..., each with further values."""

    def written(*rows: dict, name: str = "m.jsonl"):
        for id, row in zip("abc", rows, strict=False):
            write(f"{id}.wav")
            row |= {"id": id, "audio": f"{id}.wav", "text": "yes"}
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return written


def test_a_manifest_of_pseudo_labels_brings_its_weights(manifest):
    rows = load_corpus(manifest({"weight": 0.5, "confidence": 0.9}, {"confidence": 0.9}, {"weight": "2"}))
    assert rows.features == features("weight")
    assert rows["weight"][:] == [0.5, 1.0, 2.0]


def test_another_column_is_read_only_if_it_is_named(manifest):
    path = manifest({"weight": 70, "trust": 0.25}, {"weight": 80, "trust": None})
    assert "weight" not in load_corpus(path).column_names
    assert load_corpus(path, columns={"weight": "trust"})["weight"][:] == [0.25, 1.0]
    assert load_corpus(path, columns={"weight": "weight"})["weight"][:] == [70.0, 80.0]


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf"), "much"])
def test_weights_that_mean_nothing_are_refused(manifest, weight):
    path = manifest({"weight": 1, "confidence": 1}, {"weight": weight, "confidence": 1})
    with pytest.raises(UserError) as error:
        load_corpus(path)
    assert (
        f"1 of its weights is not a number of 0 or more: b ({str(weight).lower()})".lower() in str(error.value).lower()
    )


def test_a_table_of_commas_and_one_of_parquet(tmp_path, write):
    write("a.wav")
    (tmp_path / "m.csv").write_text("audio,text,weight,confidence\na.wav,yes,nan,1\n")
    with pytest.raises(UserError, match=r"a\.wav \(nan\)"):
        load_corpus(tmp_path / "m.csv")
    table = datasets.Dataset.from_dict({"audio": ["a.wav"], "text": ["yes"], "w": [float("nan")]})
    table.to_parquet(tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"\(nan\)"):
        load_corpus(tmp_path / "m.parquet", columns={"weight": "w"})


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_of_a_dataset(write, streaming):
    paths = [str(write(f"{id}.wav")) for id in "ab"]
    dataset = datasets.Dataset.from_dict({"audio": paths, "text": ["yes", "no"], "w": [0.5, None]})
    bad = datasets.Dataset.from_dict({"audio": paths, "text": ["yes", "no"], "w": [0.5, -1.0]})
    if streaming:
        dataset, bad = dataset.to_iterable_dataset(), bad.to_iterable_dataset()
    rows = rows_of_dataset(dataset, columns={"weight": "w"})
    assert [row["weight"] for row in rows] == [0.5, 1.0]
    with pytest.raises(
        UserError, match=r"1 of its weights is not a number of 0 or more: .*(b.wav|data-00000001) \(-1\.0\)"
    ):
        list(rows_of_dataset(bad, columns={"weight": "w"}))
