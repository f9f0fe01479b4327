"""CSV, TSV and JSON-lines manifests, and audiofolders."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layouts.audiofolder import AudioFolder
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.corpora.load import splits_of
from sft_speech.corpora.report import Dropped
from sft_speech.errors import UserError


def listing_of(path, text, columns=None):
    path.write_text(text, encoding="utf-8")
    return Manifest(path, columns).listing()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", 'audio,text,speaker\na.wav,"Yes, ""it"" is",anna\n/abs/b.wav,null,\n'),
        ("m.csv", '\ufeffaudio,text,speaker\r\na.wav,"Yes, ""it"" is",anna\r\n/abs/b.wav,null,\r\n'),
        ("m.tsv", 'audio\ttext\tspeaker\na.wav\tYes, "it" is\tanna\n/abs/b.wav\tnull\t\n'),
        (
            "m.jsonl",
            '{"audio":"a.wav","text":"Yes, \\"it\\" is","speaker":"anna"}\n\n{"text":"null","audio":"/abs/b.wav"}\n',
        ),
    ],
)
def test_rows(tmp_path, name, text):
    listing = listing_of(tmp_path / name, text)
    nothing = {"start": None, "end": None}
    assert listing.rows.to_pylist() == [
        {"id": "a.wav", "path": f"{tmp_path}/a.wav", "text": 'Yes, "it" is', "speaker": "anna", **nothing},
        {"id": "/abs/b.wav", "path": "/abs/b.wav", "text": "null", "speaker": "", **nothing},
    ]
    assert listing.dropped == listing.unlisted == []


def test_a_quote_that_is_not_closed_swallows_no_rows_in_silence(tmp_path):
    with pytest.raises(UserError, match="the quote before 'hello' isn't closed"):
        listing_of(tmp_path / "m.csv", 'audio,text\na.wav,"hello\nb.wav,there\nc.wav,x\n')
    rows = listing_of(tmp_path / "m.csv", 'audio,text\na.wav,"two\nlines"\nb.wav,there\n').rows
    assert rows["text"].to_pylist() == ["two\nlines", "there"]


def test_half_a_character_in_json(tmp_path):
    rows = listing_of(tmp_path / "m.jsonl", '{"audio": "a.wav", "text": "a\\ud800b"}\n').rows
    assert rows["text"].to_pylist() == ["a\ufffdb"]


def test_an_empty_line_before_the_header(tmp_path):
    assert listing_of(tmp_path / "m.csv", "\naudio,text\na.wav,hello\n").rows["text"].to_pylist() == ["hello"]


def test_segments_and_ids(tmp_path):
    text = "id,path,transcript,start,end\nx,a.wav,A,0.5,1\ny,a.wav,B,,2.5\n,a.wav,C,3,\n,a.wav,D,,\n"
    rows = listing_of(tmp_path / "m.csv", text).rows.to_pylist()
    assert [(row["id"], row["start"], row["end"]) for row in rows] == [
        ("x", 0.5, 1.0),
        ("y", None, 2.5),
        ("a.wav#3.000-", 3.0, None),
        ("a.wav", None, None),
    ]
    rows = listing_of(tmp_path / "m.csv", "path,text,start,end\na.wav,A,0.5,1\na.wav,B,1,\na.wav,C,,2\n").rows
    assert rows["id"].to_pylist() == ["a.wav#0.500-1.000", "a.wav#1.000-", "a.wav#0.000-2.000"]


def test_common_voice(tmp_path, write):
    write("clips/common_voice_en_1.mp3", format="MP3")
    text = 'client_id\tpath\tsentence_id\tsentence\tup_votes\na1\tcommon_voice_en_1.mp3\tb2\tHello, "you"!\t2\n'
    (row,) = listing_of(tmp_path / "test.tsv", text).rows.to_pylist()
    assert row["path"] == f"{tmp_path}/clips/common_voice_en_1.mp3"
    assert (row["id"], row["text"], row["speaker"]) == ("common_voice_en_1.mp3", 'Hello, "you"!', "a1")


def test_a_missing_first_row_does_not_move_the_others(tmp_path, write):
    write("a.wav")
    write("clips/other.wav")
    rows = listing_of(tmp_path / "m.csv", "path,text\ngone.wav,G\na.wav,A\n").rows
    assert rows["path"].to_pylist() == [f"{tmp_path}/gone.wav", f"{tmp_path}/a.wav"]
    write("clips/b.wav")
    rows = listing_of(tmp_path / "m.csv", "path,text\ngone.wav,G\n,\nb.wav,B\n").rows
    assert rows["path"].to_pylist() == [f"{tmp_path}/clips/gone.wav", f"{tmp_path}/clips/b.wav"]


def test_an_id_that_names_the_sentence_is_none(tmp_path, caplog):
    text = "id,path,text\ns1,a.wav,A\ns2,a.wav,B\ns1,b.wav,A\n"
    assert listing_of(tmp_path / "m.csv", text).rows["id"].to_pylist() == ["a.wav", "a.wav", "b.wav"]
    assert "m.csv: its ids are not ids of utterances (2 ids in 3 rows, and the same id for other audio)" in caplog.text
    text = "id,path,text,start,end\ns1,a.wav,A,0,1\ns1,a.wav,A,1,2\n"
    assert listing_of(tmp_path / "m.csv", text).rows["id"].to_pylist() == ["a.wav#0.000-1.000", "a.wav#1.000-2.000"]
    caplog.clear()
    text = "id,path,text\ns1,a.wav,A\ns2,b.wav,B\ns1,a.wav,A\n"  # the same row twice
    assert listing_of(tmp_path / "m.csv", text).rows["id"].to_pylist() == ["s1", "s2", "s1"]
    assert not caplog.text


def test_nemo_manifest(tmp_path):
    lines = [
        {"audio_filepath": "a.wav", "text": "A", "offset": 1.5, "duration": 2},
        {"audio_filepath": "b.wav", "text": "B", "duration": 3},
    ]
    rows = listing_of(tmp_path / "m.json", "\n".join(map(json.dumps, lines))).rows.to_pylist()
    assert [(row["start"], row["end"]) for row in rows] == [(1.5, 3.5), (None, None)]


def test_bad_rows_are_dropped_with_their_reason(tmp_path):
    text = "audio,text,start\na.wav,A,0\nb.wav,B\nc.wav,C,soon\nd.wav,D,-1\n,E,0\nf.wav,F,inf\ng.wav,G,1\n"
    listing = listing_of(tmp_path / "m.csv", text)
    assert listing.rows["path"].to_pylist() == [f"{tmp_path}/a.wav", f"{tmp_path}/g.wav"]
    assert [(row.reason, row.detail[:20]) for row in listing.dropped] == [
        ("unreadable row", "row 3 has 2 columns,"),
        ("missing file", "it names no audio fi"),
        ("bad segment", "start or end is not "),
        ("bad segment", "start or end is not "),
        ("bad segment", "start or end is not "),
    ]
    listing = listing_of(tmp_path / "m.jsonl", '{"audio": "a.wav", "text": "A"}\n{"audio": "b\n[1]\n"b.wav"\n')
    assert len(listing.rows) == 1
    assert [row.id for row in listing.dropped] == ["line 2", "line 3", "line 4"]


def test_numbers_and_null_in_jsonl(tmp_path):
    lines = '{"audio": "a.wav", "text": 12, "speaker": 7}\n{"audio": "b.wav", "text": null, "speaker": "x"}\n'
    rows = listing_of(tmp_path / "m.jsonl", lines).rows.to_pylist()
    assert [(row["text"], row["speaker"]) for row in rows] == [("12", "7"), ("", "x")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "an empty file"),
        ("m.csv", "a.wav,hello\nb.wav,world\n", r"a row, not a header: a.wav, hello.\n.* sed -i '1i audio,text' /"),
        ("m.csv", "audio;words\na.wav;hello\n", "its columns are: audio, words"),
        ("m.jsonl", "", "an empty file"),
        ("m.jsonl", "\n \n", "an empty file"),
        ("m.jsonl", '[{"audio": "a.wav"}]', "no column for the text"),
        ("m.jsonl", "[1, 2]", "no line of it is a JSON object"),
        ("m.txt", "a.wav hello", "is not a manifest"),
    ],
)
def test_tables_that_can_not_be_read(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        listing_of(tmp_path / name, text)


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl"])
def test_latin_1_is_an_error(tmp_path, name):
    tab = "\t" if name == "m.tsv" else ","
    row = '{"audio": "a.wav", "text": "caf\xe9"}' if name == "m.jsonl" else f"audio{tab}text\na.wav{tab}caf\xe9\n"
    (tmp_path / name).write_bytes(row.encode("latin-1"))
    with pytest.raises(UserError, match=r"UTF-?8"):
        Manifest(tmp_path / name).listing()


# Paths with dots or slashes may lead out of the folder.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./"), min_size=1, max_size=8)
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(names, cells, cells), min_size=1, max_size=12))
def test_what_the_csv_module_writes_is_read_as_it_was(tmp_path_factory, rows):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("audio", "text", "speaker"), *rows])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    listing = Manifest(path).listing()
    read = listing.rows.select(["id", "text", "speaker"]).to_pylist()
    assert [tuple(row.values()) for row in read] == rows
    assert listing.dropped == []


fields = st.dictionaries(
    st.sampled_from(["audio", "text", "speaker", "start", "end"]),
    st.one_of(st.none(), cells, st.floats(), st.integers()),
)
lines = st.lists(
    st.one_of(fields.map(json.dumps), cells.map(lambda cell: cell.replace("\n", "").replace("\r", ""))), max_size=12
)


@settings(deadline=None)
@given(lines)
def test_no_line_is_lost(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    lines = ['{"audio": "a.wav", "text": "A"}', *lines]
    path.write_text("\n".join(lines), encoding="utf-8")
    listing = Manifest(path).listing()
    with open(path, encoding="utf-8-sig") as file:
        assert len(listing.rows) + len(listing.dropped) == sum(bool(line.strip()) for line in file)
    assert listing.rows == Manifest(path).listing().rows


# ---- audiofolder ----


def test_audiofolder_lists_files_without_transcript(tmp_path, write):
    for name in ("wav/a.wav", "wav/b.wav", "wav/deep/c.flac"):
        write(name)
    (tmp_path / "metadata.csv").write_text("file_name,text\nwav/a.wav,A\n./wav/b.wav,B\n")
    listing = AudioFolder(tmp_path).listing()
    assert listing.rows["id"].to_pylist() == ["wav/a.wav", "./wav/b.wav"]
    assert listing.unlisted == [Dropped("wav/deep/c.flac", "no transcript", str(tmp_path / "wav/deep/c.flac"))]


def test_audiofolder_with_subsets(tmp_path, write):
    for split in ("train", "test"):
        write(f"{split}/a.wav")
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", "transcription": split}))
    folder = AudioFolder(tmp_path)
    assert folder.splits() == ["test", "train"]
    assert folder.listing("test").rows["text"].to_pylist() == ["test"]
    with pytest.raises(UserError, match="did you mean 'train'"):
        folder.listing("trian")


def test_two_tables_are_ambiguous(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\n")
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match=r"it holds metadata.csv and metadata.jsonl"):
        AudioFolder(tmp_path).listing()


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"audio": ' + "9" * 5000 + "}", '"' + "\\ud800" * 10, "nul", '{"a": NaN}']
)
def test_json_that_was_made_to_do_harm_is_a_dropped_row(tmp_path, write, line):
    write("a.wav")
    (tmp_path / "m.jsonl").write_text(line + '\n{"audio": "a.wav", "text": "a"}\n')
    listing = Manifest(tmp_path / "m.jsonl").listing()
    assert listing.rows["id"].to_pylist() == ["a.wav"]
    assert [(row.id, row.reason) for row in listing.dropped] in (
        [("line 1", "unreadable row")],
        [("row 1", "missing file")],
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"a" * 200_000, "its first line is not the header of a table"),
        ("m.csv", b"audio,text\na.wav,x\na.wav,\xe9,too,many\n", "not UTF-8 text"),  # found by atheris
        ("m.jsonl", b'{"audio": "a\\u0000b.wav", "text": "x"}', "missing file"),  # found by atheris
        ("m.csv", b"a\x1b[2J,b\n", r"its columns are: a\\x1b\[2J, b"),  # found by atheris
    ],
)
def test_tables_that_were_made_to_do_harm(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_corpus(tmp_path / name)


@pytest.fixture
def with_splits(tmp_path, write):
    for name in ("a.wav", "b.wav", "c.wav", "unlisted.wav"):
        write(name)
    lines = ["file_name,text,split", "a.wav,A,train", "b.wav,B,test", "c.wav,C,train", ",D,test", "gone.wav,E,"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("name", ["metadata.csv", ""])
def test_a_column_names_the_splits(with_splits, name, caplog):
    source, report = with_splits / name, CorpusReport()
    assert splits_of(source) == ["test", "train"]
    assert load_corpus(source, "train", report=report)["text"][:] == ["A", "C"]
    assert load_corpus(source, "test", report=report)["text"][:] == ["B"]
    assert load_corpus(source, "test+train", report=report)["text"][:] == ["B", "A", "C"]
    assert report.dropped("train") == []
    assert [(row.id, row.reason) for row in report.dropped("test")] == [("row 4", "missing file")]
    assert "rows of all its splits" not in caplog.text
    assert load_corpus(source)["text"][:] == ["A", "B", "C"]
    assert "rows of all its splits (test, train) are taken" in caplog.text
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_corpus(source, "trian")


def test_a_column_of_splits_of_another_name(tmp_path, write):
    for name in "ab":
        write(f"{name}.wav")
    (tmp_path / "m.tsv").write_text("path\ttext\tsubset\na.wav\tA\tdev\nb.wav\tB\teval\n")
    assert load_corpus(tmp_path / "m.tsv", "eval", columns={"split": "subset"})["text"][:] == ["B"]
