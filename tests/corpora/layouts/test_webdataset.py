"""Shards of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError


@pytest.fixture
def shard(tmp_path, write):
    """Writes a tar of samples: by key and suffix, text or (None) a second of noise."""
    noise = write("noise.wav").read_bytes()

    def pack(name: str, **files: str | None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for file, content in files.items():
                data = noise if content is None else content.encode()
                info = tarfile.TarInfo(file.replace("__", "."))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return pack


def read(source, split=None, **options):
    report = CorpusReport()
    corpus = load_corpus(source, split, name="c", report=report, **options)
    return [(row["id"], row["text"], row["speaker"]) for row in corpus], report.dropped("c")


def test_keys_may_come_again_in_another_shard(tmp_path, shard):
    meta = json.dumps({"text": "there", "speaker": "anna", "wav": "x", "id": 7, "duration": 1.0, "sentence": None})
    meta = json.dumps({key: value for key, value in json.loads(meta).items() if value is not None})
    shard("c/data-000.tar", k1__wav=None, k1__txt="hello\n", k2__wav=None, k2__json=meta, k3__wav=None)
    shard(
        "c/data-001.tar",
        k1__wav=None,
        k1__txt="other",
        k1__json='{"speaker": "bob"}',
        k2__near__wav=None,
        k2__txt="near",
    )
    rows, dropped = read(tmp_path / "c")
    assert rows == [
        ("data-000/k1", "hello", ""),
        ("data-000/k2", "there", "anna"),
        ("data-001/k1", "other", "bob"),
        ("data-001/k2.near", "near", ""),
    ]
    assert [(row.id, row.reason) for row in dropped] == [("data-000/k3", "no transcript")]
    assert read(tmp_path / "c")[0] == rows  # unpacked already
    assert load_corpus(tmp_path / "c", cache_dir=tmp_path / "own")[0]["audio"]["path"].startswith(f"{tmp_path}/own/")


def test_a_single_shard(shard):
    one = shard("one.tar", k1__wav=None, k1__json='{"text": "hello", "label": ["a", "b"]}', k2__wav=None, k2__json="[")
    rows, dropped = read(one)
    assert rows == [("k1", "hello", "")]
    assert [tuple(row) for row in dropped] == [("k2", "unreadable", "not JSON")]
    assert load_corpus(one, columns={"label": "label"})["label"][:] == ["a|b"]


@pytest.mark.parametrize(
    "names", [("train-000.tar", "train-001.tar", "test-000.tar"), ("train/0.tar", "train/1.tar", "test/0.tar")]
)
def test_splits(tmp_path, shard, names):
    for name in names:
        shard(f"c/{name}", k__wav=None, k__txt=name)
    with pytest.raises(UserError, match="it has the splits test, train"):
        load_corpus(tmp_path / "c")
    assert [text for _, text, _ in read(tmp_path / "c", "train")[0]] == list(names[:2])


def test_which_of_several_fields_is_asked(tmp_path, shard):
    shard("c/0.tar", k__wav=None, k__json='{"transcript": "a", "sentence": "b"}')
    with pytest.raises(UserError, match="the text can be in any of the columns transcript, sentence"):
        load_corpus(tmp_path / "c")
    assert read(tmp_path / "c", columns={"text": "sentence"})[0] == [("0/k", "b", "")]


def test_tars_of_something_else(tmp_path, shard):
    shard("c/0.tar", k1__wav=None, k2__txt="x")
    with pytest.raises(UserError, match="no corpus of a known layout"):
        load_corpus(tmp_path / "c")


def test_a_damaged_shard_is_named(tmp_path, shard):
    shard("c/0.tar", k__wav=None, k__txt="x")
    second = shard("c/1.tar", k__wav=None, k__txt="x")
    second.write_bytes(second.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"c/1.tar: it cannot be unpacked"):
        load_corpus(tmp_path / "c")
