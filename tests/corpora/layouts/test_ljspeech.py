"""The layout of LJSpeech."""

from __future__ import annotations

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layouts.ljspeech import LJSpeech
from sft_speech.corpora.report import Dropped
from sft_speech.errors import UserError


def test_rows(tmp_path, write):
    for name in ("a", "b", "c", "d"):
        write(f"wavs/{name}.wav")
    lines = ["a|It cost $5|It cost five dollars", 'b|"Quoted, he said|', "c|only one", "gone|text|text", "", "broken"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    listing = LJSpeech(tmp_path).listing()
    rows = listing.rows.to_pylist()
    assert [(row["id"], row["text"]) for row in rows] == [
        ("a", "It cost five dollars"),
        ("b", '"Quoted, he said'),
        ("c", "only one"),
        ("gone", "text"),
    ]
    assert rows[0]["path"] == str(tmp_path / "wavs" / "a.wav")
    assert rows[0]["speaker"] == ""
    assert rows[3]["path"] == str(tmp_path / "wavs" / "gone.wav")
    assert listing.dropped == [Dropped("broken", "unreadable row", "line 6 is not ID|text|normalized text")]
    assert listing.unlisted == [Dropped("d", "no transcript", str(tmp_path / "wavs" / "d.wav"))]


SAID = ("Good morning to you.", "It cost $5 at No. 3.", "He went away.", "Where is she now?")
NORMAL = ("good morning to you", "it cost five dollars at number three", "he went away", "where is she now")
VOICES = ("anna", "bob", "anna", "bob")
SECONDS = ("1.25", "2.0", "0.75", "3")


def rows_of(folder, *columns, first=None, columns_given=None, ids="abcd", name="metadata.csv"):
    """Return (id, text, speaker) of each row of a table of bars."""
    lines = ["|".join(cells) for cells in zip(ids, *columns, strict=True)]
    (folder / name).write_text("\n".join([first, *lines] if first else lines) + "\n")
    source = folder if name == "metadata.csv" else folder / name
    return [(row["id"], row["text"], row["speaker"]) for row in load_corpus(source, columns=columns_given)]


@pytest.fixture
def folder(tmp_path, write):
    for name in "abcd":
        write(f"c/wavs/{name}.wav")
    return tmp_path / "c"


NOBODY = ("",) * 4


@pytest.mark.parametrize(
    ("columns", "texts", "speakers"),
    [
        ([SAID], SAID, NOBODY),
        ([SAID, NORMAL], NORMAL, NOBODY),
        ([VOICES, SAID], SAID, VOICES),  # Piper
        ([SAID, VOICES], SAID, VOICES),  # XTTS
        ([SAID, NORMAL, VOICES], NORMAL, VOICES),
        ([VOICES, SAID, NORMAL], NORMAL, VOICES),
        ([SAID, SECONDS], SAID, NOBODY),
        ([SAID, NORMAL, SECONDS], NORMAL, NOBODY),  # CSS10
        ([SAID, NORMAL, NORMAL, SECONDS], NORMAL, NOBODY),  # KSS
        ([("7", "9", "7", "9"), SAID], SAID, ("7", "9", "7", "9")),  # VITS
        ([VOICES, ("EN",) * 4, SAID], SAID, VOICES),
        ([SAID, NORMAL, ("",) * 4], NORMAL, NOBODY),
        ([("yes", "no", "yes", "no")], ("yes", "no", "yes", "no"), NOBODY),
        ([("1", "2", "3", "4"), ("one", "two", "three", "four")], ("one", "two", "three", "four"), NOBODY),
    ],
)
def test_columns_are_told_apart_by_their_values(folder, columns, texts, speakers):
    assert rows_of(folder, *columns) == list(zip("abcd", texts, speakers, strict=True))


def test_columns_that_are_read_otherwise_are_named(folder, caplog):
    rows_of(folder, VOICES, SAID)
    assert "its columns are read as id, text (column 3) and speaker (2)" in caplog.text


@pytest.mark.parametrize(
    "columns",
    [
        [SAID, ("Guten Morgen", "Es kostete", "Er ging", "Wo ist sie")],  # a translation
        [VOICES, ("yes", "no", "yes", "no")],
        [("anna", "bob", "cleo", "dora"), SAID],  # as many voices as rows
    ],
)
def test_columns_that_can_not_be_told_apart_are_asked_for(folder, columns):
    with pytest.raises(UserError, match=r"is the text \(2: .* \| 3: .*\n.*--text_column 3 --speaker_column 2"):
        rows_of(folder, *columns)
    assert rows_of(folder, *columns, columns_given={"text": "3", "speaker": "2"}) == list(
        zip("abcd", columns[1], columns[0], strict=True)
    )


def test_two_columns_of_names_are_asked_for(folder):
    feelings = ("happy", "happy", "sad", "sad")
    with pytest.raises(UserError, match=r"the speaker \(3: anna \| 4: happy\).*\n.*--text_column 2 --speaker_column 3"):
        rows_of(folder, SAID, VOICES, feelings)
    given = {"text": "2", "speaker": "4"}
    assert rows_of(folder, SAID, VOICES, feelings, columns_given=given)[2] == ("c", SAID[2], "sad")
    with pytest.raises(UserError, match="there is no column '5'"):
        rows_of(folder, SAID, VOICES, columns_given={"text": "5"})


@pytest.mark.parametrize(
    ("header", "columns", "given"),
    [
        ("id|text|normalized_text", [SAID, NORMAL], None),
        ("ID|Speaker|Transcription", [VOICES, NORMAL], None),
        ("file|words|text", [SAID, NORMAL], None),
        ("file|text|words", [SAID, NORMAL], {"text": "words"}),
    ],
)
def test_a_header(folder, header, columns, given):
    rows = rows_of(folder, *columns, first=header, columns_given=given)
    assert [row[:2] for row in rows] == list(zip("abcd", NORMAL, strict=True))
    assert [row[2] for row in rows] == [*VOICES] if VOICES in columns else [""] * 4


def test_a_header_that_names_the_audio(folder):
    ids = [f"wavs/{name}.wav" for name in "abcd"]
    rows = rows_of(folder, SAID, VOICES, ids=ids, first="audio_file|text|speaker_name")
    assert rows == list(zip(ids, SAID, VOICES, strict=True))


@pytest.mark.parametrize("form", ["{}.wav", "wavs/{}.wav", "./wavs/{}.wav", "wavs/{}", "{}.flac", " {} "])
def test_ids_with_a_folder_or_an_ending(folder, form):
    ids = [form.format(name) for name in "abcd"]
    assert rows_of(folder, SAID, ids=ids) == list(zip(ids, SAID, NOBODY, strict=True))


def test_audio_elsewhere_and_files_of_one_name(tmp_path, write):
    for name in ("anna/1", "bob/1", "bob/2"):
        write(f"c/wav/{name}.wav")
    (tmp_path / "c/metadata.csv").write_text("anna/1|One.\nbob/1.wav|Two.\n2|Three.\n1|Four.\nanna/2|Five.\n")
    report = CorpusReport()
    corpus = load_corpus(tmp_path / "c", report=report)
    assert [row["audio"]["path"].removeprefix(f"{tmp_path}/c/wav/") for row in corpus] == [
        "anna/1.wav",
        "bob/1.wav",
        "bob/2.wav",
    ]
    assert [(row.id, row.reason) for row in report.dropped("c")] == [("1", "several files"), ("anna/2", "missing file")]


@pytest.mark.parametrize("name", ["metadata_train.csv", "filelist.txt"])
def test_a_table_by_its_own_path(folder, name):
    ids = [str(folder / f"wavs/{one}.wav") for one in "abcd"]
    assert rows_of(folder, SAID, VOICES, ids=ids, name=name) == list(zip(ids, SAID, VOICES, strict=True))


def test_latin_1_is_an_error(folder):
    (folder / "metadata.csv").write_bytes("a|Grüße\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_corpus(folder)
