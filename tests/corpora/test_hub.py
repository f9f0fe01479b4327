"""Corpora that ``datasets`` reads: here as local folders of parquet files, of the schema of openslr/librispeech_asr."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_speech.audio.read import read
from sft_speech.audio.units import samples_of
from sft_speech.corpora import CorpusReport, headers, hub, load_corpus, select_usable
from sft_speech.corpora.rows import COLUMNS, features
from sft_speech.errors import UserError


@pytest.fixture
def clips(write):
    """Encoded clips of 1, 2 and 3 s, and one that is no audio."""
    return [write(f"{number}.flac", float(number)).read_bytes() for number in (1, 2, 3)] + [b"no audio at all"]


@pytest.fixture
def parquet(tmp_path, clips):
    """Writes a parquet file of four rows; named arguments replace columns, None leaves one out."""

    def write(name, **columns):
        table = {
            "file": [f"{number}.flac" for number in range(4)],
            "audio": [{"bytes": clip, "path": f"{number}.flac"} for number, clip in enumerate(clips)],
            "text": ["ONE", "TWO", "THREE", "FOUR"],
            "speaker_id": [19, 19, 26, 26],
            "chapter_id": [1, 1, 1, 1],
            "id": [f"19-1-{number:04d}" for number in range(4)],
        } | columns
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: column for name, column in table.items() if column is not None}), path)
        return tmp_path / "corpus"

    return write


def test_rows(parquet):
    report = CorpusReport()
    corpus = load_corpus(parquet("clean/test/0000.parquet"), "test", config="clean", report=report)
    assert corpus.column_names == list(COLUMNS)
    assert corpus.features == features()
    assert [(row["id"], row["text"], row["speaker"], row["seconds"], row["start"]) for row in corpus] == [
        ("19-1-0000", "ONE", "19", 1.0, None),
        ("19-1-0001", "TWO", "19", 2.0, None),
        ("19-1-0002", "THREE", "26", 3.0, None),
    ]
    assert [(row.id, row.reason) for row in report.dropped("test")] == [("19-1-0003", "not audio")]
    assert len(read(corpus[1]["audio"], 16_000)) == 32_000


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_is_typed_as_audio_is_not_decoded(parquet, streaming):
    """As ``datasets`` writes it: under whatever name, to be decoded by torchcodec."""
    import datasets

    folder = parquet("test.parquet", id=None, file=None)
    table = pq.read_table(folder / "test.parquet").rename_columns(["speech", "text", "speaker_id", "chapter_id"])
    typed = datasets.Features(
        {
            "speech": datasets.Audio(sampling_rate=16_000),
            "text": datasets.Value("string"),
            "speaker_id": datasets.Value("int64"),
            "chapter_id": datasets.Value("int64"),
        }
    )
    pq.write_table(table.replace_schema_metadata(typed.arrow_schema.metadata), folder / "test.parquet")
    rows = list(load_corpus(folder, "test", streaming=streaming))
    assert [(row["id"], row["seconds"]) for row in rows] == [("0.flac", 1.0), ("1.flac", 2.0), ("2.flac", 3.0)]
    assert rows[0]["audio"].keys() == {"path", "bytes"}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.clean.100/0000.parquet", "dev.clean/0000.parquet"], ["dev.clean", "train.clean.100"]),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], ["test", "train"]),
        (["train.parquet"], ["train"]),
    ],
)
def test_splits_of_folders(parquet, names, splits):
    for name in names:
        folder = parquet(name)
    for split in splits:
        assert len(load_corpus(folder, split)) == 3
    with pytest.raises(UserError, match=f"there are: {', '.join(splits)}"):
        load_corpus(folder, "nothing-alike")
    if len(splits) > 1:
        with pytest.raises(UserError, match="it has the splits"):
            load_corpus(folder)


def test_configurations(parquet):
    folder = parquet("clean/test/0000.parquet")
    parquet("other/test/0000.parquet")
    with pytest.raises(UserError, match="it has the configurations clean, other"):
        load_corpus(folder, "test")
    with pytest.raises(UserError, match="did you mean 'clean'"):
        load_corpus(folder, "test", config="claen")
    assert len(load_corpus(folder, "test", config="other")) == 3


def test_configurations_of_a_readme(parquet):
    folder = parquet("all/dev.clean/0000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: dev\n    path: all/dev.clean/*.parquet\n---\n"
    )
    assert len(load_corpus(folder, "dev", config="small")) == 3
    with pytest.raises(UserError, match="There are: dev"):
        load_corpus(folder, "dev.clean")


def test_other_column_names(parquet):
    folder = parquet("a.parquet", text=None, raw=["A", "B", None, "D"], speaker_id=None, id=None)
    with pytest.raises(UserError, match="no column for the text"):
        load_corpus(folder)
    corpus = load_corpus(folder, columns={"text": "raw"})
    assert corpus["text"][:] == ["A", "B", ""]
    assert corpus["speaker"][:] == ["", "", ""]
    assert corpus["id"][:] == ["0.flac", "1.flac", "2.flac"]
    with pytest.raises(UserError, match="segments are read from manifests only"):
        load_corpus(folder, columns={"text": "raw", "start": "file"})


def test_ids_where_there_are_none(parquet, clips):
    audio = [{"bytes": clip, "path": None} for clip in clips]
    corpus = load_corpus(parquet("test.parquet", audio=audio, id=None), "test")
    assert corpus["id"][:] == [f"test-{number:08d}" for number in range(3)]


def test_ranges_speakers_and_several_splits(parquet):
    folder = parquet("train.parquet")
    parquet("test.parquet", id=list("abcd"))
    assert load_corpus(folder, "train+test")["id"][:] == ["19-1-0000", "19-1-0001", "19-1-0002", "a", "b", "c"]
    report = CorpusReport()
    first, rest = (load_corpus(folder, split, name="x", report=report)["id"][:] for split in ("test:0.5", "test[0.5:]"))
    assert sorted(first + rest + [row.id for row in report.dropped("x")]) == list("abcd")


def test_duplicate_ids(parquet):
    report = CorpusReport()
    folder = parquet("test.parquet", id=["a", "b", "a", "c"])
    assert load_corpus(folder, "test", report=report)["text"][:] == ["ONE", "TWO"]
    assert [(row.id, row.reason) for row in report.dropped("test")] == [("c", "not audio"), ("a", "duplicate id")]


def test_an_id_that_most_rows_share_is_none(parquet):
    """FLEURS: ``id`` is the sentence's, which several people read."""
    report = CorpusReport()
    corpus = load_corpus(parquet("test.parquet", id=[7, 7, 7, 9]), "test", report=report)
    assert len(corpus) == len(set(corpus["id"])) == 3
    assert [row.reason for row in report.dropped("test")] == ["not audio"]


def test_headers_are_read_once(parquet, monkeypatch):
    folder = parquet("test.parquet")
    first = list(load_corpus(folder, "test"))
    probe, again = headers.probe, []
    monkeypatch.setattr(headers, "probe", lambda audio: again.append(audio["bytes"]) or probe(audio))
    assert list(load_corpus(folder, "test")) == first
    assert again == []


def test_streaming_gives_the_same_rows(parquet):
    folder = parquet("test.parquet")
    report = CorpusReport()
    stream = load_corpus(folder, "test", streaming=True, report=report)
    assert list(stream) == list(load_corpus(folder, "test"))
    assert [(row.id, row.reason) for row in report.dropped("test")] == [("19-1-0003", "not audio")]
    with pytest.raises(UserError, match="cannot be taken from a stream"):
        load_corpus(folder, "test:0.5", streaming=True)


def test_a_stream_for_many_readers_has_a_shard_per_row_group(parquet, write):
    folder = parquet("test.parquet", id=None)
    table = pq.read_table(folder / "test.parquet")
    pq.write_table(table, folder / "test.parquet", row_group_size=1)
    assert load_corpus(folder, "test", streaming=True).num_shards == 1
    assert load_corpus(folder, "test", streaming=True, min_shards=1).num_shards == 1
    stream = load_corpus(folder, "test", streaming=True, min_shards=2)
    assert stream.num_shards == 4
    assert [row["text"] for row in stream] == ["ONE", "TWO", "THREE"]


@pytest.mark.parametrize("streaming", [False, True])
def test_of_a_dataset_on_the_hub_only_one_split_is_downloaded(parquet, monkeypatch, streaming):
    """The Hub is played by a folder whose other split, if it were touched, could not be read."""
    import datasets

    folder = parquet("data/dev-00000-of-00001.parquet")
    (folder / "data" / "train-00000-of-00001.parquet").write_text("no parquet file")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: dev\n    path: data/dev-*\n"
        "  - split: train\n    path: data/train-*\n---\n"
    )
    build = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda source: ["default"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda source, config: ["dev", "train"])
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda source, config: build(str(folder), config))
    assert [row["text"] for row in load_corpus("owner/name", "dev", streaming=streaming)] == ["ONE", "TWO", "THREE"]


def test_selecting_usable_rows_copies_no_audio(parquet, tmp_path):
    from collections import Counter

    from sft_speech.text.normalize import Normalized

    corpus = load_corpus(parquet("test.parquet"), "test:3")
    before = {path for path in tmp_path.rglob("*") if path.suffix == ".arrow"}
    kept = select_usable(
        corpus,
        "test",
        CorpusReport(),
        min_seconds=0.0,
        max_seconds=2.5,
        normalize=lambda text: Normalized(text.lower(), Counter()),
        encode=list,
        frames_of=lambda seconds: 50 * seconds,
        max_missing_share=0.0,
    )
    assert kept["text"][:] == [
        text.lower() for text, seconds in zip(corpus["text"], corpus["seconds"], strict=True) if seconds < 2.5
    ]
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".arrow"} == before
    for row in kept:
        assert len(read(row["audio"], 8000)) == samples_of(row["seconds"], 8000)


def test_a_damaged_parquet_file(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1" + bytes(np.arange(200, dtype=np.uint8)))
    with pytest.raises(UserError, match="cannot read it"):
        load_corpus(tmp_path, "train")


def test_a_parquet_file_with_a_damaged_footer(parquet):
    """Arrow raises a plain OSError here, without a number as a fault of the disk has."""
    [path] = parquet("train.parquet").glob("*.parquet")
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little")
    data[-8 - footer] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot read it: Couldn't deserialize thrift"):
        load_corpus(path.parent, "train")


def test_no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no such folder here"):
        load_corpus("nobody/nothing", "test")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("where", ["hub", "folder"])
def test_rows_of_others_name_no_files_of_this_machine(parquet, clips, tmp_path, monkeypatch, streaming, where):
    """Absolute paths are open in a folder that the user named; relative ones would depend on where the run began."""
    (tmp_path / "private.flac").write_bytes(clips[0])
    monkeypatch.chdir(tmp_path)
    paths = [str(tmp_path / "private.flac"), "private.flac", f"../{tmp_path.name}/private.flac"]
    audio = [{"bytes": None, "path": path} for path in paths] + [{"bytes": clips[1], "path": "/etc/passwd"}]
    folder = parquet("test.parquet", audio=audio)
    report, source = CorpusReport(), str(folder)
    if where == "hub":
        source, opened = "somebody/corpus", hub._open
        monkeypatch.setattr(hub, "_open", lambda _source, *rest, **kwargs: opened(str(folder), *rest, **kwargs))
    rows = list(load_corpus(source, "test", streaming=streaming, report=report))
    kept = ["19-1-0000", "19-1-0003"] if where == "folder" else ["19-1-0003"]
    assert [row["id"] for row in rows] == kept
    assert {row.reason for row in report.dropped("test")} == {"outside the corpus folder"}
    assert len(report.dropped("test")) == 4 - len(kept)
