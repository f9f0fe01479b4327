"""Paths of tables that were written on another system: the file that is meant, or the reason why there is none."""

from __future__ import annotations

import json
import logging
import os
import unicodedata

import pytest

from sft_speech.corpora import CorpusReport, found, load_corpus
from sft_speech.errors import UserError

NFC, NFD = (unicodedata.normalize(form, "Äpfel é.wav") for form in ("NFC", "NFD"))


@pytest.fixture
def corpus(tmp_path, write, caplog):
    """Writes files and a table that lists paths; returns the files of its rows, the dropped ones and the log."""

    def load(files, paths, source="c/metadata.jsonl"):
        (tmp_path / "c").mkdir(exist_ok=True)
        for name in files:
            write(f"c/{name}", 0.2, format=name.rstrip().rpartition(".")[2].replace("bak", "wav").upper())
        table = tmp_path / "c" / "metadata.jsonl"
        lines = [json.dumps({"id": str(row), "audio": path, "text": "t"}) for row, path in enumerate(paths)]
        table.write_text("\n".join(lines) + "\n")
        report = CorpusReport()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            rows = load_corpus(tmp_path / source, name="c", report=report)
        files = {row["id"]: os.path.relpath(row["audio"]["path"], tmp_path / "c") for row in rows}
        dropped = {row.id: (row.reason, row.detail) for row in report.dropped("c")}
        log = [record.getMessage() for record in caplog.records if record.name == found.__name__]
        return files, dropped, log

    return load


@pytest.mark.parametrize(
    ("written", "file", "way"),
    [
        (r"wavs\a.wav", "wavs/a.wav", "backslashes"),
        (r".\wavs\a.wav", "wavs/a.wav", "backslashes"),
        (r"C:\Users\bob\corpus\wavs\a.wav", "wavs/a.wav", "backslashes and another folder"),
        (r"\\server\share\wavs\a.wav", "wavs/a.wav", "backslashes and another folder"),
        ("C:/corpus/wavs/a.wav", "wavs/a.wav", "another folder"),
        ("/data/corpus/wavs/a.wav", "wavs/a.wav", "another folder"),
        ("corpus/wavs/a.wav", "wavs/a.wav", "another folder"),
        ("/data/corpus/a.wav", "a.wav", "another folder"),
        ("a.wav", "wavs/a.wav", "another folder"),
        ("file:///data/corpus/wavs/a.wav", "wavs/a.wav", "file:// URL and another folder"),
        (
            "file://localhost/C:/corpus/wavs/my%20file.wav",
            "wavs/my file.wav",
            "file:// URL and percent signs and another folder",
        ),
        ("wavs/my%20file.wav", "wavs/my file.wav", "percent signs"),
        ("wavs/my file.wav", "wavs/my%20file.wav", "another spelling"),
        ("wavs/a.wav ", "wavs/a.wav", "spaces"),
        (" wavs /a.wav", "wavs/a.wav", "spaces"),
        ("wavs/a.wav", "wavs/a.wav ", "another spelling"),
        ("WAVS/A.WAV", "wavs/a.wav", "upper and lower case"),
        ("wavs/STRASSE.wav", "wavs/Straße.wav", "upper and lower case"),
        (f"wavs/{NFC}", f"wavs/{NFD}", "Unicode form"),
        (f"wavs/{NFD}", f"wavs/{NFC}", "Unicode form"),
        ("wavs/a", "wavs/a.wav", "ending"),
    ],
)
def test_a_file_is_found_and_that_is_said(corpus, written, file, way, tmp_path):
    files, dropped, log = corpus([file], [written])
    assert (files, dropped) == ({"0": file}, {})
    assert log == [
        f"{tmp_path / 'c'}: 1 of 1 files are not where their paths say, and were found: 1 by {way} "
        f"({written} is {file})"
    ]


def test_a_tilde_is_the_home_directory(corpus, write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write("home/speech/a.wav", 0.2)
    files, dropped, log = corpus([], ["~/speech/a.wav"])
    assert (files, dropped) == ({"0": "../home/speech/a.wav"}, {})
    assert len(log) == 1
    assert f"1 by ~ (~/speech/a.wav is {tmp_path}/home/speech/a.wav)" in log[0]


def test_an_absolute_url_of_a_file_is_an_absolute_path(corpus, write, tmp_path):
    write("else where/a.wav", 0.2)
    assert corpus([], [f"file://{tmp_path}/else%20where/a.wav"])[:2] == ({"0": "../else where/a.wav"}, {})


def test_all_rows_are_counted_in_one_line(corpus, tmp_path):
    files, dropped, log = corpus(
        ["wavs/a.wav", "wavs/b.wav", "wavs/c.wav", "wavs/d.wav"],
        [r"wavs\a.wav", r"wavs\b.wav", "wavs/C.wav", "wavs/d.wav", "wavs/e.wav"],
    )
    assert files == {"0": "wavs/a.wav", "1": "wavs/b.wav", "2": "wavs/c.wav", "3": "wavs/d.wav"}
    assert dropped == {"4": ("missing file", "no such file, or not a regular one")}
    assert log == [
        f"{tmp_path / 'c'}: 3 of 5 files are not where their paths say, and were found: "
        r"2 by backslashes (wavs\a.wav is wavs/a.wav), 1 by upper and lower case (wavs/C.wav is wavs/c.wav)"
    ]


def test_segments_of_one_file_stay_together(tmp_path, write):
    write("c/wavs/a.wav", 2.0)
    (tmp_path / "c" / "m.csv").write_text("audio,text,start,end\nwavs\\a.wav,x,0,1\nwavs\\a.wav,y,1,2\n")
    rows = load_corpus(tmp_path / "c" / "m.csv")
    assert [(row["start"], row["audio"]["path"]) for row in rows] == [
        (0.0, str(tmp_path / "c/wavs/a.wav")),
        (1.0, str(tmp_path / "c/wavs/a.wav")),
    ]


@pytest.mark.parametrize(
    ("files", "paths", "kept", "why"),
    [
        # a missing file is not one of the same name in another folder
        (["train/2.wav", "test/1.wav"], ["train/1.wav", "train/2.wav"], {"1": "train/2.wav"}, "there is test/1.wav"),
        (["1.wav", "train/2.wav"], ["train/1.wav", "train/2.wav"], {"1": "train/2.wav"}, "there is 1.wav"),
        # which of several is meant cannot be known
        (["x/1.wav", "y/1.wav", "2.wav"], ["1.wav", "2.wav"], {"1": "2.wav"}, "there is x/1.wav and y/1.wav"),
        (["x/A.wav", "x/a.wav", "2.wav"], ["x/%61 .wav", "2.wav"], {"1": "2.wav"}, ""),
        (["wavs/1.wav", "2.wav"], ["/data/1.wav", "2.wav"], {"1": "2.wav"}, "there is wavs/1.wav"),
        # of two rows with the same file, one would be wrong
        (["1.wav", "2.wav"], ["2.wav", "/a/1.wav", "/b/1.wav"], {"0": "2.wav"}, "there is 1.wav"),
        (["a.wav"], ["A.wav", "a.wav"], {"1": "a.wav"}, "there is a.wav"),
        (["a.wav.bak", "2.wav"], ["a.wav", "2.wav"], {"1": "2.wav"}, ""),
    ],
)
def test_what_cannot_be_known_is_not_guessed(corpus, files, paths, kept, why):
    found, dropped, log = corpus(files, paths)
    assert (found, log) == (kept, [])
    assert {reason for reason, _ in dropped.values()} == {"missing file"}
    assert why in " ".join(detail for _, detail in dropped.values())


def test_the_least_changed_name_is_meant(corpus):
    files, dropped, _ = corpus(["wavs/A.wav", "wavs/a.wav"], ["/data/wavs/a.wav", r"wavs\A.wav"])
    assert (files, dropped) == ({"0": "wavs/a.wav", "1": "wavs/A.wav"}, {})


def test_a_folder_of_another_machine_is_one_folder_here(corpus):
    """The old copy of a file at the top is not what a row means whose neighbours are in wavs."""
    files, dropped, _ = corpus(["wavs/1.wav", "wavs/2.wav", "3.wav"], [f"/data/wavs/{n}.wav" for n in (1, 2, 3)])
    assert files == {"0": "wavs/1.wav", "1": "wavs/2.wav"}
    assert dropped == {"2": ("missing file", "no such file, or not a regular one; there is 3.wav")}


@pytest.mark.parametrize("url", ["https://example.org/a.wav", "s3://bucket/a.wav", "gs://bucket/a.wav"])
def test_a_url_is_answered_in_words(corpus, url):
    _, dropped, _ = corpus(["a.wav", "b.wav"], [url, "b.wav"])
    what = f"a URL ({url.partition(':')[0]}): download the files, and name them by their paths"
    assert dropped == {"0": ("missing file", what)}


def test_no_path_leads_out_of_the_folder(corpus, write):
    write("secret/a.wav", 0.2)
    write("secret/linked/b.wav", 0.2)
    write("secret/linked/d.wav", 0.2)
    os.symlink(write("secret/c.wav", 0.2).parent / "linked", write("c/own.wav", 0.2).parent / "link")
    files, dropped, log = corpus([], ["own.wav", r"..\secret\a.wav", r"link\b.wav", "LINK/d.wav"])
    assert (files, log) == ({"0": "own.wav"}, [])
    assert {id: reason for id, (reason, _) in dropped.items()} == {
        "1": "outside the corpus folder",
        "2": "outside the corpus folder",
        "3": "outside the corpus folder",
    }


def test_a_folder_does_not_count_found_files_as_without_a_row(corpus):
    files, dropped, _ = corpus(["wavs/a.wav", "wavs/b.wav"], [r"wavs\a.wav"], source="c")
    assert files == {"0": "wavs/a.wav"}
    assert {id: reason for id, (reason, _) in dropped.items()} == {"wavs/b.wav": "no transcript"}


def test_names_that_only_differ_in_form_are_found_in_the_layout_of_ljspeech(tmp_path, write, caplog):
    write(f"wavs/{NFD}", 0.2)
    write("wavs/LJ001-0001.wav", 0.2)
    (tmp_path / "metadata.csv").write_text(f"lj001-0001|one|one\n{NFC[:-4]}|two|two\n")
    rows = load_corpus(tmp_path)
    assert [(row["text"], os.path.basename(row["audio"]["path"])) for row in rows] == [
        ("one", "LJ001-0001.wav"),
        ("two", NFD),
    ]
    assert "2 of 2 files are not where their paths say" in caplog.text
    assert "no transcript" not in caplog.text


def test_rows_that_are_right_are_not_looked_at_again(corpus, monkeypatch):
    monkeypatch.setattr("sft_speech.corpora.load.find_missing", lambda *_: pytest.fail("looked at"))
    assert corpus(["a.wav"], ["a.wav"])[0] == {"0": "a.wav"}


def test_the_folder_is_listed_once_for_all_missing_files(corpus, monkeypatch):
    listed = []
    walk = os.walk

    def counted(folder, **kwargs):
        listed.append(folder)
        return walk(folder, **kwargs)

    monkeypatch.setattr(found.os, "walk", counted)
    names = [f"{number}.wav" for number in range(20)]
    assert len(corpus(names, [name.upper() for name in names])[0]) == 20
    assert len([folder for folder in listed if os.path.isdir(folder)]) == 1


def test_headers_of_found_files_are_read_once(corpus, monkeypatch):
    corpus(["a.wav", "b.wav"], ["A.wav", "b.wav"])
    monkeypatch.setattr("sft_speech.corpora.headers.probe", lambda *_: pytest.fail("read again"))
    assert corpus([], ["A.wav", "b.wav"])[0] == {"0": "a.wav", "1": "b.wav"}


def test_a_corpus_without_any_file_is_an_error_that_names_the_nearest(corpus):
    with pytest.raises(UserError, match=r"the nearest name is wavs/speech-001\.flac"):
        corpus(["wavs/speech-001.flac"], ["wavs/speech-001.mp3"])
