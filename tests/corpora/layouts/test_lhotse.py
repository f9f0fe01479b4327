"""Manifests of lhotse."""

from __future__ import annotations

import gzip
import json

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError


def recording(source="a.wav", kind="file", **more):
    sources = [{"type": kind, "channels": [0], "source": source}]
    return {"id": "a", "sources": sources, "sampling_rate": 16000, "num_samples": 48000, "duration": 3.0} | more


def supervision(text="hello", start=0.0, duration=1.0, **more):
    return {
        "id": f"s-{text}",
        "recording_id": "a",
        "start": start,
        "duration": duration,
        "channel": 0,
        "text": text,
    } | more


def cut(*supervisions, start=0.5, **more):
    own = {"id": "cut", "start": start, "duration": 2.0, "channel": 0, "supervisions": list(supervisions)}
    return own | {"recording": recording(), "type": "MonoCut"} | more


def lines(*objects) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in objects).encode()


@pytest.fixture
def folder(tmp_path, write):
    write("c/a.wav", 3.0)
    return tmp_path / "c"


def read(source, split=None, **options):
    report = CorpusReport()
    corpus = load_corpus(source, split, name="c", report=report, **options)
    return [(row["id"], row["text"], row["start"], row["seconds"]) for row in corpus], report.dropped("c")


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "mine_cuts_train.jsonl.gz"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_cuts(folder, name, given):
    content = lines(cut(supervision(), supervision("there", 1.25, 0.25)), cut(supervision("all", -0.5, 3.0)))
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, dropped = read(folder if given == "folder" else folder / name)
    assert rows == [("s-hello", "hello", 0.5, 1.0), ("s-there", "there", 1.75, 0.25), ("s-all", "all", None, 3.0)]
    assert dropped == []


def test_recordings_and_supervisions(folder):
    (folder / "x_recordings_dev.jsonl.gz").write_bytes(gzip.compress(lines(recording(str(folder / "a.wav")))))
    own = supervision(start=0.25, speaker="anna", language="English")
    gone = supervision("gone", recording_id="b")
    (folder / "x_supervisions_dev.jsonl.gz").write_bytes(gzip.compress(lines(own, gone)))
    rows, dropped = read(folder)
    assert rows == [("s-hello", "hello", 0.25, 1.0)]
    assert dropped == [("s-gone", "missing file", "no such recording in the manifest")]
    (row,) = load_corpus(folder, "dev", columns={"language": None})
    assert (row["speaker"], row["language"]) == ("anna", "English")


def test_splits(folder):
    for split in ("train", "dev"):
        (folder / f"x_cuts_{split}.jsonl").write_bytes(lines(cut(supervision(split))))
    with pytest.raises(UserError, match="it has the splits dev, train"):
        load_corpus(folder)
    assert read(folder, "dev")[0] == [("s-dev", "dev", 0.5, 1.0)]


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (cut(supervision(), type="MixedCut"), "not supported", "a MixedCut; only MonoCut is read"),
        (cut(supervision(), recording=None), "not supported", "a cut without a recording: only features"),
        (cut(), "no transcript", "a cut without supervisions"),
        (cut(supervision(), recording=recording("sox x", "command")), "not supported", "a source of type 'command'"),
        (cut(supervision(), recording=recording(transforms=[{"name": "Speed"}])), "not supported", "by Speed"),
        (cut(supervision(), recording=recording("../b.wav")), "outside the corpus folder", "../b.wav is outside"),
        (cut(supervision(), recording=recording("b.wav")), "missing file", "no b.wav in"),
        (cut(supervision(start=None)), "bad segment", "not a number of seconds"),
        (cut(supervision(start=-1)), "bad segment", "not a number of seconds"),
        (cut(supervision(duration=9)), "bad segment", "0.50 to 9.50 s of a file of 3.00 s"),
        ([1], "unreadable row", "not a JSON object"),
    ],
)
def test_what_is_dropped(folder, write, bad, reason, detail):
    write("b.wav", 3.0)
    (folder / "cuts.jsonl").write_bytes(lines(cut(supervision("fine"), recording=recording(transforms=None)), bad))
    rows, dropped = read(folder)
    assert [row[0] for row in rows] == ["s-fine"]
    assert dropped[0].reason == reason
    assert detail in dropped[0].detail


def test_a_path_relative_to_the_current_folder(folder, monkeypatch):
    (folder / "data").mkdir()
    (folder / "data/cuts.jsonl").write_bytes(lines(cut(supervision())))
    monkeypatch.chdir(folder)
    assert len(read("data")[0]) == 1


def test_a_damaged_file(folder):
    (folder / "cuts.jsonl.gz").write_bytes(gzip.compress(lines(cut(supervision())))[:-9])
    with pytest.raises(UserError, match="it is cut or damaged"):
        load_corpus(folder)
