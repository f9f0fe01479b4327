"""Tables as programs write them."""

from __future__ import annotations

import gzip
import json
import zipfile

import pandas as pd
import pytest

from sft_speech.corpora import load_corpus
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.corpora.load import splits_of
from sft_speech.errors import UserError


def rows_of(path, content, columns=None):
    """Return (id, text, speaker) of each row, and the dropped ones."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    listing = Manifest(path, columns).listing()
    return [tuple(row.values()) for row in listing.rows.select(["id", "text", "speaker"]).to_pylist()], listing.dropped


EXPECTED = [("a.wav", "Yes, it is", "anna"), ("b.wav", "No; not", "bob")]
COMMAS = 'audio,text,speaker\na.wav,"Yes, it is",anna\nb.wav,No; not,bob\n'
SEMICOLONS = 'audio;text;speaker\na.wav;Yes, it is;anna\nb.wav;"No; not";bob\n'
TABS = "audio\ttext\tspeaker\na.wav\tYes, it is\tanna\nb.wav\tNo; not\tbob\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", SEMICOLONS),
        ("m.csv", "\ufeff" + SEMICOLONS.replace("\n", "\r\n")),
        ("m.csv", SEMICOLONS.replace("\n", "\r")),
        ("m.csv", "sep=;\r\n" + SEMICOLONS),
        ("m.csv", '"sep=,"\r\n' + COMMAS),
        ("m.csv", TABS),
        ("m.tsv", COMMAS),
        ("m.csv", TABS.replace("\t", "|")),
        ("m.csv", TABS.encode("utf-16")),
        ("m.csv", SEMICOLONS.encode("utf-16-le")),
        ("m.csv", ";;\n\n" + SEMICOLONS.replace("\nb", "\n;;\n \nb") + ";;\n;;\n"),
        ("m.csv", COMMAS.replace("\nb", "\n\n,,\nb")),
        ("m.csv", COMMAS.replace("audio,text,speaker", "Audio, Text ,Speaker ID")),
        ("m.csv", COMMAS.replace("audio,text", "wav_filename,transcript")),
        ("m.tsv", '"audio"\t"text"\t"speaker"\n"a.wav"\t"Yes, it is"\t"anna"\n"b.wav"\t"No; not"\t"bob"\n'),
    ],
)
def test_dialects_of_csv(tmp_path, name, content):
    assert rows_of(tmp_path / name, content) == (EXPECTED, [])


def test_the_header_decides_on_the_delimiter(tmp_path):
    rows, _ = rows_of(tmp_path / "m.csv", "path,text;raw,text\na.wav,x;y,hello\n")
    assert rows == [("a.wav", "hello", "")]
    rows, _ = rows_of(tmp_path / "m.csv", "clip;words\na.wav;hello, you\n", {"audio": "clip", "text": "words"})
    assert rows == [("a.wav", "hello, you", "")]


def test_quotes_in_tsv(tmp_path):
    quoted = 'path\tsentence\na.mp3\t"""Go!"" he said."\nb.mp3\tfine\n'
    assert [text for _, text, _ in rows_of(tmp_path / "m.tsv", quoted)[0]] == ['"Go!" he said.', "fine"]
    plain = 'path\tsentence\na.mp3\t"Go!" he said.\nb.mp3\t""Go""\nc.mp3\t"Yes."\n'
    assert [text for _, text, _ in rows_of(tmp_path / "m.tsv", plain)[0]] == ['"Go!" he said.', '""Go""', '"Yes."']


def test_a_decimal_comma_beside_semicolons(tmp_path):
    (tmp_path / "m.csv").write_text("audio;text;start;end\na.wav;A;0,5;1,25\n")
    assert Manifest(tmp_path / "m.csv").listing().rows.select(["start", "end"]).to_pylist() == [
        {"start": 0.5, "end": 1.25}
    ]
    (tmp_path / "m.csv").write_text('audio,text,start,end\na.wav,A,"0,5","1,250"\n')  # or thousands
    assert [row.reason for row in Manifest(tmp_path / "m.csv").listing().dropped] == ["bad segment"]


def test_the_number_of_a_bad_row_counts_the_lines_before_the_header(tmp_path):
    assert rows_of(tmp_path / "m.csv", "sep=,\naudio,text\na.wav,A\nb.wav\n")[1][0].id == "row 4"


ONE, TWO = '{"audio": "a.wav", "text": "A", "speaker": 7}', '{"audio": "b.wav", "text": "B"}'
JSON_ROWS = [("a.wav", "A", "7"), ("b.wav", "B", "")]


@pytest.mark.parametrize(
    "text",
    [
        f"[{ONE}, {TWO}]",
        f"[\n{ONE},\n{TWO},\n]\n",  # with the comma, it isn't JSON
        f"{ONE},\n{TWO},\n",
        json.dumps([json.loads(ONE), json.loads(TWO)], indent=2),
        f'{{"version": 1, "data": [{ONE}, {TWO}]}}',
        f'{{"data": [\n{ONE},\n{TWO}\n]}}',
        '{"audio": ["a.wav", "b.wav"], "text": ["A", "B"], "speaker": [7, null]}',
        '{"audio": {"0": "a.wav", "1": "b.wav"}, "text": {"0": "A", "1": "B"}, "speaker": {"0": 7, "1": NaN}}',
        f'{{"audio": {{"path": "a.wav", "bytes": null}}, "text": ["A"], "speaker": 7}}\n{TWO}',
    ],
)
@pytest.mark.parametrize("name", ["m.json", "m.jsonl"])
def test_documents_of_json(tmp_path, name, text):
    assert rows_of(tmp_path / name, text) == (JSON_ROWS, [])


def test_json_by_ids_and_by_splits(tmp_path):
    text = '{"u1": {"wav": "a.wav", "text": "A"},\n "u2": {"wav": "b.wav", "text": "B"}}'
    assert rows_of(tmp_path / "m.json", text)[0] == [("u1", "A", ""), ("u2", "B", "")]
    (tmp_path / "m.json").write_text(f'{{"train": [{ONE}], "test": [{TWO}]}}')
    assert splits_of(tmp_path / "m.json") == ["test", "train"]
    assert Manifest(tmp_path / "m.json").listing("test").rows["text"].to_pylist() == ["B"]


def test_values_of_json(tmp_path):
    values = [1.5, True, None, float("nan"), ["only"], ["two", "words"], {"en": "x"}, "nan", []]
    lines = "\n".join(json.dumps({"audio": f"{n}.wav", "text": one}) for n, one in enumerate(values))
    rows, dropped = rows_of(tmp_path / "m.jsonl", lines)
    assert [(id, text) for id, text, _ in rows] == [
        ("0.wav", "1.5"),
        ("1.wav", "true"),
        ("2.wav", ""),
        ("3.wav", ""),
        ("4.wav", "only"),
        ("7.wav", "nan"),
    ]
    assert [(row.id, row.reason, row.detail) for row in dropped] == [
        ("line 6", "unreadable row", "its text is a list, not one value"),
        ("line 7", "unreadable row", "its text is an object, not one value"),
        ("line 9", "unreadable row", "its text is a list, not one value"),
    ]


def test_parquet_with_paths(tmp_path, write):
    write("c/wavs/a.wav", 2.0)
    folder = tmp_path / "c"
    frame = pd.DataFrame({"path": ["wavs/a.wav"] * 2, "text": ["A", None], "start": [0.5, None], "id": [1, 2]})
    frame.to_parquet(folder / "m.parquet")
    corpus = load_corpus(folder / "m.parquet")
    assert corpus.select_columns(["id", "text", "seconds", "start"]).to_list() == [
        {"id": "1", "text": "A", "seconds": 1.5, "start": 0.5},
        {"id": "2", "text": "", "seconds": 2.0, "start": None},
    ]
    (folder / "m.parquet").rename(folder / "train-00000-of-00001.parquet")
    assert splits_of(folder) == ["train"]
    assert load_corpus(folder, "train")["id"][:] == ["1", "2"]


def test_one_parquet_file_with_audio(tmp_path, write):
    audio = {"bytes": write("a.wav").read_bytes(), "path": "a.wav"}
    pd.DataFrame({"audio": [audio], "text": ["A"]}).to_parquet(tmp_path / "m.parquet")
    (row,) = load_corpus(tmp_path / "m.parquet")
    assert (row["id"], row["text"], row["seconds"]) == ("a.wav", "A", 1.0)


def test_tables_of_other_kinds_get_an_answer(tmp_path):
    with zipfile.ZipFile(tmp_path / "my m.xlsx", "w") as file:
        file.writestr("xl/workbook.xml", "")
    with pytest.raises(UserError, match=r"workbook.*\n.*soffice --headless --convert-to csv '.*/my m.xlsx'"):
        load_corpus(tmp_path / "my m.xlsx")
    (tmp_path / "my m.xlsx").rename(tmp_path / "m.csv")
    with pytest.raises(UserError, match="a workbook or another zip archive, not a table of text"):
        load_corpus(tmp_path / "m.csv")
    (tmp_path / "m.ods").write_bytes(b"?")
    with pytest.raises(UserError, match=r"a workbook \(\*.ods\)"):
        load_corpus(tmp_path / "m.ods")
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"audio,text\n"))
    with pytest.raises(UserError, match="gunzip -k /"):
        load_corpus(tmp_path / "m.csv.gz")
    (tmp_path / "m.csv").write_bytes("audio;text\na.wav;Grüße\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"iconv -f WINDOWS-1252 -t UTF-8 /.*/m.csv > /.*/m.utf8.csv"):
        load_corpus(tmp_path / "m.csv")


def test_a_missing_header_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"first line is a row, .*: a.wav, anna, hi.\n.*sed -i '1i audio,column2,column3'"
    ):
        rows_of(tmp_path / "m.csv", "a.wav,anna,hi\n")
