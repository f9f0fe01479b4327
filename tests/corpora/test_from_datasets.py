"""Rows of datasets that were made or loaded in Python."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.audio.read import read
from sft_speech.corpora import CorpusReport, load_corpus, rows_of_dataset
from sft_speech.corpora.rows import features
from sft_speech.errors import UserError

datasets = pytest.importorskip("datasets")
RATE = 8000


@pytest.fixture
def waveforms():
    """Of 1 and 2 s, float32."""
    rng = np.random.default_rng(0)
    return [rng.uniform(-0.5, 0.5, seconds * RATE).astype(np.float32) for seconds in (1, 2)]


@pytest.fixture
def paths(tmp_path, waveforms):
    names = [str(tmp_path / f"{number}.wav") for number in range(len(waveforms))]
    for name, samples in zip(names, waveforms, strict=True):
        soundfile.write(name, samples, RATE, subtype="FLOAT")
    return names


def columns_of(kind: str, waveforms, paths) -> dict[str, list]:
    """Columns that hold the two clips in one of the ways that datasets do."""
    encoded = [Path(path).read_bytes() for path in paths]
    return {
        "paths": {"audio": paths},
        "bytes": {"audio": encoded},
        "files": {"audio": [{"path": path, "bytes": None} for path in paths]},
        "encoded": {"audio": [{"path": None, "bytes": content} for content in encoded]},
        "decoded": {"audio": [{"path": None, "array": one, "sampling_rate": RATE} for one in waveforms]},
        "lists": {"audio": [{"array": one.tolist(), "sampling_rate": RATE} for one in waveforms]},
        "stereo": {"audio": [{"array": np.stack([one, one]), "sampling_rate": RATE} for one in waveforms]},
        "rates": {"audio": [one.tolist() for one in waveforms], "sampling_rate": [RATE] * 2},
    }[kind]


KINDS = ("paths", "bytes", "files", "encoded", "decoded", "lists", "stereo", "rates")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_audio(kind, streaming, waveforms, paths):
    dataset = datasets.Dataset.from_dict(columns_of(kind, waveforms, paths) | {"sentence": ["A", "B"], "other": [1, 2]})
    rows = rows_of_dataset(dataset.to_iterable_dataset() if streaming else dataset, name="train")
    assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
    assert rows.features == features()
    found = list(rows)
    assert [(row["text"], row["speaker"], row["seconds"], row["start"]) for row in found] == [
        ("A", "", 1.0, None),
        ("B", "", 2.0, None),
    ]
    named = kind in ("paths", "files") and not (streaming and kind == "paths")
    assert [row["id"] for row in found] == (paths if named else ["train-00000000", "train-00000001"])
    for row, samples in zip(found, waveforms, strict=True):
        np.testing.assert_array_equal(read(row["audio"], RATE), samples)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stereo"])
def test_a_generator(kind, waveforms, paths):
    def generate():
        columns = columns_of(kind, waveforms, paths)
        for place in range(2):
            yield {name: values[place] for name, values in columns.items()} | {"text": "AB"[place]}

    rows = list(rows_of_dataset(datasets.IterableDataset.from_generator(generate)))
    assert [(row["text"], row["seconds"]) for row in rows] == [("A", 1.0), ("B", 2.0)]
    for row, samples in zip(rows, waveforms, strict=True):
        np.testing.assert_array_equal(read(row["audio"], RATE), samples)


@pytest.mark.parametrize("rows", [[], [{"audio": {"array": np.zeros((2, 9)), "sampling_rate": 8000}, "text": "A"}]])
def test_a_generator_whose_types_are_not_found_out(rows):
    with pytest.raises(UserError, match="the types of its columns cannot be determined"):
        rows_of_dataset(datasets.IterableDataset.from_generator(lambda: iter(rows)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("decode", [False, True])
def test_a_column_that_is_typed_as_audio_is_not_decoded(decode, streaming, paths):
    """Which torchcodec would do."""
    dataset = datasets.Dataset.from_dict({"clip": paths, "text": ["A", "B"]})
    dataset = dataset.cast_column("clip", datasets.Audio(decode=decode, sampling_rate=16_000))
    rows = list(rows_of_dataset(dataset.to_iterable_dataset() if streaming else dataset))
    assert [(row["id"], row["audio"]) for row in rows] == [(path, {"bytes": None, "path": path}) for path in paths]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 16_384, -32_768], np.int16), [0, 0.5, -1]),
        (np.array([0, 1 << 30, -(1 << 31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0.25, -1.5, 0.1], np.float64), [0.25, -1.5, np.float32(0.1)]),
    ],
)
def test_samples_of_every_type(samples, expected):
    dataset = datasets.Dataset.from_dict({"audio": [samples], "text": ["A"]})
    (row,) = rows_of_dataset(dataset, rate=RATE)
    np.testing.assert_array_equal(read(row["audio"], RATE), np.array(expected, np.float32))
    assert row["seconds"] == 3 / RATE


def test_the_same_arrays_are_the_same_bytes(waveforms, paths, monkeypatch):
    """Whenever they are made: fingerprints of tables depend on them."""
    import time

    dataset = datasets.Dataset.from_dict(columns_of("decoded", waveforms, paths) | {"text": ["A", "B"]})
    first = rows_of_dataset(dataset)["audio"][:]
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert rows_of_dataset(dataset)["audio"][:] == first


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_can_not_be_used_have_reasons(streaming, waveforms):
    audio = [
        {"array": waveforms[0].tolist(), "sampling_rate": RATE},
        None,
        {"array": [], "sampling_rate": RATE},
        {"array": [0.5] * 100, "sampling_rate": None},
        {"array": [0.0] * 100, "sampling_rate": RATE},
    ]
    dataset = datasets.Dataset.from_dict({"audio": audio, "text": ["A"] * 5, "id": list("abcde")})
    report = CorpusReport()
    rows = rows_of_dataset(dataset.to_iterable_dataset() if streaming else dataset, name="train", report=report)
    assert [row["id"] for row in rows] == ["a"]
    reasons = {row.id: row.reason for row in report.dropped("train")}
    assert reasons == {"b": "missing file", "c": "empty", "d": "unreadable", "e": "silent"}


def test_the_report(paths, tmp_path, caplog):
    dataset = datasets.Dataset.from_dict({"audio": [*paths, str(tmp_path / "gone.wav")], "text": ["A", "B", "C"]})
    report = CorpusReport()
    rows_of_dataset(dataset, name="train", report=report)
    assert report.to_dict()["train"]["kept"] == {"rows": 2, "hours": pytest.approx(3 / 3600)}
    assert caplog.text == ""
    rows_of_dataset(dataset, name="train")
    assert "missing file" in caplog.text
    with pytest.raises(UserError, match="no row of dataset train can be used"):
        rows_of_dataset(dataset.select([2]), name="train")


def test_rows_of_load_corpus_pass_unchanged(librispeech):
    corpus = load_corpus(librispeech, "dev-clean")
    assert rows_of_dataset(corpus) is corpus
    stream = load_corpus(librispeech, "dev-clean", streaming=True)
    assert rows_of_dataset(stream) is stream
    assert rows_of_dataset(corpus.shuffle(0))["id"][:] == corpus.shuffle(0)["id"][:]


def test_columns_labels_and_a_dataset_that_leaves_rows_out(paths):
    table = {"clip": paths, "words": ["A", "B"], "who": [7, 8], "mood": [1, 0], "key": ["x", "y"]}
    dataset = datasets.Dataset.from_dict(table).cast_column("mood", datasets.ClassLabel(names=["sad", "glad"]))
    columns = {"audio": "clip", "text": "words", "speaker": "who", "id": "key", "label": "mood"}
    for chosen in (dataset.select([1, 0]), dataset.select([1, 0]).with_format("numpy")):
        rows = rows_of_dataset(chosen, columns=columns)
        assert rows.features == features("label")
        assert [tuple(row[name] for name in ("id", "text", "speaker", "label", "seconds")) for row in rows] == [
            ("y", "B", "8", "sad", 2.0),
            ("x", "A", "7", "glad", 1.0),
        ]
    assert rows_of_dataset(dataset, columns={"audio": "clip", "text": None})["text"][:] == ["", ""]
    with pytest.raises(UserError, match="dataset data: no column for the text"):
        rows_of_dataset(dataset, columns={"audio": "clip"})


def test_selecting_rows_copies_no_audio(paths):
    encoded = [Path(path).read_bytes() for path in paths]
    dataset = datasets.Dataset.from_dict({"audio": encoded, "text": ["A", "B"]})
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False)).select([1])
    rows = rows_of_dataset(dataset)
    assert rows["text"][:] == ["B"]
    own, given = (one.data.column("audio").chunk(0).field("bytes").buffers()[2] for one in (rows, dataset))
    assert own.address == given.address


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda paths: [{"audio": paths[0], "text": "A"}], "its type is list"),
        (lambda paths: datasets.DatasetDict(), "its type is DatasetDict.\n-> give one of its splits"),
        (lambda paths: datasets.Dataset.from_dict({"audio": [1.5], "text": ["A"]}), "it holds no audio"),
        (lambda paths: datasets.Dataset.from_dict({"audio": paths, "text": [["A"], ["B"]]}), "it holds no text"),
    ],
)
def test_what_is_no_dataset_of_speech(dataset, message, paths):
    with pytest.raises(UserError, match=message):
        rows_of_dataset(dataset(paths))


def test_rows_of_a_repository_name_no_files_of_this_machine(paths, tmp_path):
    """A folder given to ``datasets`` is opened like a repository of the Hub."""
    (tmp_path / "repository").mkdir()
    table = f"audio,text\n{paths[0]},A\n{paths[1]},B\n"
    (tmp_path / "repository" / "train.csv").write_text(table)
    opened = datasets.load_dataset(str(tmp_path / "repository"), split="train", cache_dir=str(tmp_path / "cache"))
    report = CorpusReport()
    with pytest.raises(UserError, match="outside the corpus folder"):
        rows_of_dataset(opened, report=report)
    file = str(tmp_path / "repository" / "train.csv")
    named = datasets.load_dataset("csv", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows_of_dataset(named)["text"][:] == ["A", "B"]


def test_a_waveform_is_written_without_loss(waveforms, paths):
    dataset = datasets.Dataset.from_dict(columns_of("decoded", waveforms, paths) | {"text": ["A", "B"]})
    for row, samples in zip(rows_of_dataset(dataset), waveforms, strict=True):
        decoded, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        assert rate == RATE
        np.testing.assert_array_equal(decoded, samples)
