"""Recordings with a file of text each."""

from __future__ import annotations

import codecs

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.classes import ClassFolders
from sft_speech.corpora.layouts.librispeech import LibriSpeech
from sft_speech.corpora.layouts.sidecars import Sidecars
from sft_speech.corpora.load import splits_of
from sft_speech.corpora.report import Dropped
from sft_speech.errors import UserError


@pytest.mark.parametrize("suffix", ["txt", "TXT", "lab", "normalized.txt"])
def test_side_by_side(fill, listed, suffix):
    folder = fill(
        {
            "a.wav": "",
            f"a.{suffix}": "\ufeffHello,\r\nthere.\n",
            "b.c.mp3": "",
            f"b.c.{suffix}": b"\xff\xfe" + "Zwei.".encode("utf-16-le"),
            "e.wav": "",
            f"e.{suffix}": "",
            f"gone.{suffix}": "Gone.",
            "extra.wav": "",
            "README.txt": "About this corpus.",
            f"._a.{suffix}": "\0\5",
        }
    )
    source = open_source(folder)
    assert isinstance(source, Sidecars)
    assert source.splits() == []
    assert listed(source) == [
        ("a", "a.wav", "Hello, there.", ""),
        ("b.c", "b.c.mp3", "Zwei.", ""),
        ("e", "e.wav", "", ""),
    ]
    assert source.listing().dropped == [Dropped("gone", "missing file", f"no recording for gone.{suffix}")]
    assert source.listing().unlisted == [Dropped("extra", "no transcript", str(folder / "extra.wav"))]


def test_speaker_folders(fill, listed, caplog):
    caplog.set_level("INFO")
    names = ["anna/1", "anna/2", "bob/1"]
    folder = fill({f"c/{name}{suffix}": name for name in names for suffix in (".wav", ".txt")})
    source = open_source(folder)
    assert [(row[0], row[3]) for row in listed(source)] == [
        ("c/anna/1", "anna"),
        ("c/anna/2", "anna"),
        ("c/bob/1", "bob"),
    ]
    assert "its 2 folders (anna, ...) are its speakers" in caplog.text
    assert {row[3] for row in listed(Sidecars(folder, {"speaker": None}))} == {""}
    assert {row[3] for row in listed(Sidecars(folder / "c/anna"))} == {""}


def test_a_folder_per_recording_is_no_speaker(fill, listed):
    folder = fill({f"{name}/{name}{suffix}": name for name in ("a", "b", "c") for suffix in (".wav", ".txt")})
    assert {row[3] for row in listed(open_source(folder))} == {""}


def test_two_levels_of_folders(fill, listed, caplog):
    names = ["x/anna/1", "x/anna/2", "x/bob/1", "y/carl/1"]
    folder = fill({f"{name}{suffix}": name for name in names for suffix in (".wav", ".txt")})
    assert {row[3] for row in listed(Sidecars(folder))} == {""}
    assert "which of the folders x/anna are its speakers can't be seen; speaker_column: 1 takes" in caplog.text
    assert [row[3] for row in listed(Sidecars(folder, {"speaker": "1"}))] == ["x", "x", "x", "y"]
    assert [row[3] for row in listed(Sidecars(folder, {"speaker": "2"}))] == ["anna", "anna", "bob", "carl"]
    with pytest.raises(UserError, match=r"there is no column 'who'.*\n.*1, 2"):
        Sidecars(folder, {"speaker": "who"}).listing()


def test_the_names_of_files_tell_the_speakers(fill, listed):
    names = ["x/p1/p1_1", "x/p1/p1_2", "y/p2/p2_1"]
    folder = fill({f"{name}{suffix}": name for name in names for suffix in (".wav", ".lab")})
    assert [row[3] for row in listed(open_source(folder))] == ["p1", "p1", "p2"]


@pytest.mark.parametrize(
    ("audio", "text"),
    [
        ("{split}/wav/{name}.wav", "{split}/txt/{name}.txt"),
        ("wavs/{split}/{name}.wav", "Transcripts/{split}/{name}.txt"),
        ("{split}/{name}.wav", "{split}/{name}.txt"),
        ("c/audio_16k/{split}/{name}.wav", "c/lab/{split}/{name}.lab"),
    ],
)
def test_splits_and_parallel_folders(fill, listed, audio, text):
    rows = [("train", "anna/1"), ("train", "anna/2"), ("train", "bob/1"), ("test", "carl/1")]
    files = {audio.format(split=split, name=name): "" for split, name in rows}
    files |= {text.format(split=split, name=name): f"{split} {name}" for split, name in rows}
    folder = fill({**files, text.format(split="test", name="dora/1"): "gone"})
    assert splits_of(folder) == ["test", "train"]
    source = open_source(folder)
    assert [row[2:] for row in listed(source, "train")] == [
        ("train anna/1", "anna"),
        ("train anna/2", "anna"),
        ("train bob/1", "bob"),
    ]
    assert [row[2:] for row in listed(source, "test")] == [("test carl/1", "carl")]
    assert [row.reason for row in source.listing("test").dropped] == ["missing file"]
    assert source.listing("train").dropped == []
    with pytest.raises(UserError, match="there is no split 'dev'"):
        source.listing("dev")


def test_parallel_folders_of_one_speaker_each(fill, listed):
    """L2-ARCTIC and others: the parallel folders are below the speakers."""
    names = [("ABA", "arctic_1"), ("ABA", "arctic_2"), ("ZHAA", "arctic_1")]
    files = {f"{speaker}/wav/{name}.wav": "" for speaker, name in names}
    files |= {f"{speaker}/transcript/{name}.txt": f"{name} by {speaker}" for speaker, name in names}
    rows = listed(open_source(fill(files)))
    assert rows[2] == ("ZHAA/arctic_1", "ZHAA/wav/arctic_1.wav", "arctic_1 by ZHAA", "ZHAA")


def test_two_kinds_of_transcripts_are_asked_about(fill, listed):
    folder = fill({"a.wav": "", "a.txt": "Mr. A", "a.lab": "mister a", "b.wav": "", "b.txt": "B"})
    with pytest.raises(
        UserError, match=r"several kinds: 2 \*.txt, 1 \*.lab \(e.g. a\).\n-> say which: text_column: txt"
    ):
        load_corpus(folder)
    assert [row[2] for row in listed(open_source(folder, {"text": "lab"}))] == ["mister a"]
    assert [row[2] for row in listed(open_source(folder, {"text": ".txt"}))] == ["Mr. A", "B"]
    with pytest.raises(UserError, match=r"there is no column 'words'.\n-> there are: lab, txt"):
        open_source(folder, {"text": "words"}).listing()


def test_the_normalized_text_of_libritts(fill, listed):
    folder = fill({"x/a.wav": "", "x/a.normalized.txt": "Mister A.", "x/a.original.txt": "Mr. A."})
    assert [row[2] for row in listed(open_source(folder))] == ["Mister A."]
    assert type(open_source(fill({"84/5/84_5_0.normalized.txt": "A"}))) is LibriSpeech


@pytest.mark.parametrize(
    "labels",
    [
        "0 1200000 sil\n1200000 1500000 ah\n",
        "separator ;\nnfields 1\n#\n0.16 121 pau\n0.24 121 ao\n",
        "0.0\t1.5\tHello there\n1.5\t2.5\tagain\n",
    ],
)
def test_labels_with_times_are_no_transcripts(fill, listed, labels):
    folder = fill({"a.wav": "", "a.lab": labels, "b.wav": "", "b.lab": "7 years and\n3 months"})
    assert [row[2] for row in listed(open_source(folder))] == ["7 years and 3 months"]
    detail = f"{folder / 'a.lab'} holds times and labels"
    assert open_source(folder).listing().dropped == [Dropped("a", "unreadable transcript", detail)]
    fill({"a.txt": "Hello.", "b.txt": "Seven years.", "b.lab": labels})
    assert [row[2] for row in listed(open_source(folder))] == ["Hello.", "Seven years."]


def test_timit(fill, listed):
    """TIMIT: the dialect and the speaker are folders, the text begins with samples."""
    rows = ["TRAIN/DR1/FCJF0/SA1", "TRAIN/DR2/MDAB0/SA1", "TEST/DR1/FAKS0/SA1"]
    files = {f"TIMIT/{row}.WAV": "" for row in rows}
    files |= {f"TIMIT/{row}.TXT": "0 46797 She had your dark suit.\n" for row in rows}
    files |= {f"TIMIT/{row}.PHN": "0 3050 h#\n" for row in rows}
    source = open_source(fill(files), {"speaker": "2"})
    assert source.splits() == ["TEST", "TRAIN"]
    assert [row[2:] for row in listed(source, "TRAIN")] == [
        ("She had your dark suit.", "FCJF0"),
        ("She had your dark suit.", "MDAB0"),
    ]


def test_recordings_in_two_forms(fill):
    folder = fill({"a.wav": "", "a.flac": "", "a.txt": "A"})
    with pytest.raises(UserError, match=r"1 recording is there twice, e.g. a.flac and a.wav.\n-> move one"):
        load_corpus(folder)
    folder = fill({"c/wav16/b.wav": "", "c/wav48/b.wav": "", "c/txt/b.txt": "B"})
    with pytest.raises(UserError, match=r"there twice, e.g. wav16/b.wav and wav48/b.wav"):
        load_corpus(folder / "c")


def test_text_that_cannot_be_read(fill, write):
    write("a.wav")
    write("b.wav")
    folder = fill({"a.txt": codecs.BOM_UTF8 + b"caf\xe9", "b.txt": "good"})
    report = CorpusReport()
    assert load_corpus(folder, name="x", report=report)["text"][:] == ["good"]
    (row,) = report.dropped("x")
    assert (row.id, row.reason) == ("a", "unreadable transcript")
    assert row.detail.endswith("a.txt is not UTF-8 text: convert it")


def test_labels_come_from_folders(fill):
    folder = fill({"yes/a.wav": "", "yes/a.txt": "yes", "no/b.wav": ""})
    assert type(open_source(folder, {"label": None})) is ClassFolders
    assert type(open_source(folder, {"label": "speaker"})) is Sidecars


def test_no_recording_has_a_transcript(fill):
    with pytest.raises(UserError, match=r"(?s)no corpus of a known layout.*\n.*a.wav and a.txt"):
        open_source(fill({"a.wav": "", "README.txt": "About.", "x/b.txt": "b"}))
