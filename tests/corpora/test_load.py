"""From a source to a corpus, and everything that can be wrong with one."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.audio.read import read
from sft_speech.audio.units import samples_of
from sft_speech.corpora import CorpusReport, load_corpus, mapped
from sft_speech.corpora.rows import features
from sft_speech.errors import UserError


def manifest(tmp_path, rows: list[dict]):
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps({"text": "A"} | row) + "\n" for row in rows))
    return path


def reasons(report: CorpusReport, name: str) -> dict[str, str]:
    return {row.id: row.reason for row in report.dropped(name)}


def test_librispeech(librispeech):
    report = CorpusReport()
    corpus = load_corpus(librispeech, "dev-clean+train-clean-100", report=report)
    assert corpus.features == features()
    assert len(corpus) == 12
    assert corpus[0] == {
        "id": "174-5-0000",
        "audio": {"path": str(librispeech / "dev-clean/174/5/174-5-0000.flac"), "bytes": None},
        "text": "SPEAKER 174 SAYS 0",
        "speaker": "174",
        "seconds": 1.0,
        "start": None,
    }
    assert report.to_dict()["dev-clean+train-clean-100"]["kept"] == {"rows": 12, "hours": pytest.approx(24 / 3600)}


def test_nothing_is_written_but_the_index(librispeech, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    load_corpus(librispeech, "dev-clean")
    new = sorted(set(tmp_path.rglob("*")) - set(before))
    assert [path.suffix for path in new if path.is_file()] == [".parquet"]
    assert sum(path.stat().st_size for path in new if path.is_file()) < 4000
    corpus = load_corpus(librispeech, "dev-clean", cache_dir=tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere" / "sft_speech").iterdir())) == 1
    assert corpus.cache_files == []


def test_a_large_corpus_is_mapped_and_follows_its_files(librispeech, write, monkeypatch):
    small = load_corpus(librispeech, "dev-clean")
    monkeypatch.setattr(mapped, "LARGE", 1)
    large = load_corpus(librispeech, "dev-clean")
    assert small.cache_files == []
    assert len(large.cache_files) == 1
    assert list(large) == list(small)
    assert large.features == features()
    write(librispeech / "dev-clean/84/5/84-5-0001.flac", 7.0)
    assert load_corpus(librispeech, "dev-clean")["seconds"][:] == [1.0, 2.0, 3.0, 1.0, 7.0, 3.0]
    assert large["seconds"][:] == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]


def test_ranges_and_speakers(librispeech):
    whole = load_corpus(librispeech, "dev-clean")["id"][:]
    first = load_corpus(librispeech, "dev-clean:0.5")["id"][:]
    rest = load_corpus(librispeech, "dev-clean[0.5:]")["id"][:]
    assert len(first) == 3
    assert sorted(first + rest) == sorted(whole)
    assert load_corpus(librispeech / "dev-clean", "speaker=84")["id"][:] == whole[3:]
    assert len(load_corpus(librispeech, "dev-clean:2+train-clean-100:1")) == 3


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (None, "it has the splits dev-clean, train-clean-100"),
        ("train", "did you mean 'train-clean-100'"),
        ("dev-clean+tset", "no split 'tset'"),
        ("speaker=84", "it has the splits"),
    ],
)
def test_missing_split(librispeech, split, message):
    with pytest.raises(UserError, match=message):
        load_corpus(librispeech, split)


def test_split_of_a_source_without_splits(tmp_path, write):
    write("a.wav")
    with pytest.raises(UserError, match="no split 'train': it has no splits"):
        load_corpus(manifest(tmp_path, [{"audio": "a.wav"}]), "train")


def test_config_is_for_the_hub(librispeech):
    with pytest.raises(UserError, match="no configurations"):
        load_corpus(librispeech, "dev-clean", config="clean")


def test_missing_column(tmp_path):
    (tmp_path / "m.csv").write_text("audio,words\na.wav,A\n")
    with pytest.raises(UserError, match="--text_column NAME"):
        load_corpus(tmp_path / "m.csv")
    with pytest.raises(UserError, match="did you mean 'words'"):
        load_corpus(tmp_path / "m.csv", columns={"text": "word"})


@pytest.mark.parametrize("text", ["audio,text\n", "audio,text\ngone.wav,A\n"])
def test_empty_corpus(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError, match=r"an empty corpus|no row of .* can be used"):
        load_corpus(tmp_path / "m.csv")


def test_empty_range(tmp_path, write):
    write("a.wav")
    with pytest.raises(UserError, match="empty corpus"):
        load_corpus(manifest(tmp_path, [{"audio": "a.wav"}]), ":0.1")


def test_every_bad_file_is_a_dropped_row(tmp_path, write):
    """And every odd one is not."""
    nan = np.full(16_000, np.nan, np.float32)
    write("good.wav")
    write("eight.wav", channels=8)
    write("fast.wav", rate=96_000)
    write("short.wav", seconds=100 / 16_000)
    write("long.wav", seconds=7200, rate=1000)
    write("nan.wav", samples=nan, subtype="FLOAT")
    write("silent.flac", samples=np.zeros(16_000, np.float32))
    whole = write("whole.flac", seconds=5).read_bytes()
    (tmp_path / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "corrupt.flac").write_bytes(whole[:4] + bytes(len(whole)))
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.flac").write_text("a transcript, not audio\n" * 50)
    names = [
        "good",
        "eight",
        "fast",
        "short",
        "long",
        "nan",
        "silent",
        "truncated",
        "corrupt",
        "zero",
        "text",
        "gone",
        "good",
    ]
    paths = [next((path.name for path in tmp_path.glob(f"{name}.*")), f"{name}.wav") for name in names]
    report = CorpusReport()
    corpus = load_corpus(manifest(tmp_path, [{"audio": path, "id": path} for path in paths]), name="all", report=report)
    assert dict(zip(corpus["id"], corpus["seconds"], strict=True)) == {
        "good.wav": 1.0,
        "eight.wav": 1.0,
        "fast.wav": 1.0,
        "short.wav": 0.00625,
        "long.wav": 7200.0,
    }
    assert reasons(report, "all") == {
        "nan.wav": "not finite",
        "silent.flac": "silent",
        "truncated.flac": "truncated",
        "corrupt.flac": "unreadable",
        "zero.wav": "empty",
        "text.flac": "not audio",
        "gone.wav": "missing file",
        "good.wav": "duplicate id",
    }
    for row in corpus:
        assert len(read(row["audio"], 16_000)) == samples_of(row["seconds"], 16_000)


def test_audio_without_transcript_is_dropped_where_all_rows_are_meant(librispeech, write):
    write(librispeech / "dev-clean/84/5/84-5-0009.flac")
    report = CorpusReport()
    load_corpus(librispeech, "dev-clean", report=report)
    assert reasons(report, "dev-clean") == {"84-5-0009": "no transcript"}
    load_corpus(librispeech, "dev-clean:0.5", report=report)
    assert reasons(report, "dev-clean:0.5") == {}


def test_segments(tmp_path, write):
    write("a.flac", seconds=4.0)
    spans = [(0.5, 1.25), (3.0, None), (None, 1.0), (3.5, 4.05), (2.0, 2.0), (3.0, 2.0), (3.5, 5.0), (4.0, 4.5)]
    report = CorpusReport()
    corpus = load_corpus(
        manifest(tmp_path, [{"audio": "a.flac", "start": s, "end": e} for s, e in spans]), name="x", report=report
    )
    assert list(zip(corpus["start"], corpus["seconds"], strict=True)) == [
        (0.5, 0.75),
        (3.0, 1.0),
        (0.0, 1.0),
        (3.5, 0.5),
    ]
    assert set(reasons(report, "x").values()) == {"bad segment"}
    assert len(report.dropped("x")) == 4
    whole = read(corpus[0]["audio"], 16_000)
    for row in corpus:
        samples = read(row["audio"], 16_000, row["start"], row["seconds"])
        first = samples_of(row["start"], 16_000)
        np.testing.assert_array_equal(samples, whole[first : first + samples_of(row["seconds"], 16_000)])


def test_without_a_report_what_is_dropped_is_logged(tmp_path, write, caplog):
    write("a.wav")
    with caplog.at_level(logging.WARNING):
        load_corpus(manifest(tmp_path, [{"audio": "a.wav"}, {"audio": "gone.wav"}]))
    assert "missing file: gone.wav" in caplog.text


def test_streaming_a_folder(librispeech):
    rows = list(load_corpus(librispeech, "dev-clean"))
    assert list(load_corpus(librispeech, "dev-clean", streaming=True)) == rows
    stream = load_corpus(librispeech, "dev-clean", streaming=True, min_shards=2)
    assert stream.num_shards == 2
    assert list(stream) == rows
    assert load_corpus(librispeech, "dev-clean", streaming=True, min_shards=10**6).num_shards == len(rows)


@pytest.fixture(scope="module")
def few_files(tmp_path_factory):
    """Files of 1 to 3 s, and bad ones."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(3):
        samples = np.random.default_rng(number).uniform(-0.3, 0.3, 8000 * (number + 1))
        soundfile.write(folder / f"{number}.wav", samples, 8000)
    (folder / "bad.wav").write_text("no audio")
    return folder


row = st.fixed_dictionaries(
    {"audio": st.sampled_from(["0.wav", "1.wav", "2.wav", "bad.wav", "gone.wav", ""])},
    optional={
        "id": st.sampled_from("abcdef"),
        "start": st.one_of(st.none(), st.floats(-1, 4)),
        "end": st.one_of(st.none(), st.floats(-1, 4)),
        "speaker": st.sampled_from(["", "anna", "bob"]),
    },
)


@settings(deadline=None)
@given(st.lists(row, min_size=1, max_size=15))
def test_no_row_is_lost_ids_are_unique_the_order_is_the_same(few_files, rows):
    report = CorpusReport()
    rows = [{"audio": "0.wav", "id": "first"}, *rows]
    path = manifest(few_files, rows)
    corpus = load_corpus(path, name="x", report=report, cache_dir=few_files / "cache")
    assert len(corpus) + len(report.dropped("x")) == len(rows)
    assert len(set(corpus["id"])) == len(corpus)
    assert all(seconds > 0 for seconds in corpus["seconds"])
    again = load_corpus(path, name="x", cache_dir=few_files / "cache")
    assert list(corpus) == list(again)
    given_ids = iter([row["id"] for row in rows if "id" in row])
    assert all(id in given_ids for id in corpus["id"] if "wav" not in id)  # in the order of the manifest
