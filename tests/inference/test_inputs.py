"""Recordings as they are named on the command line."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest
import soundfile

from sft_speech.errors import UserError
from sft_speech.inference.inputs import find_audio, given_audio, listed, relative_names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with recordings of every kind, and other files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech" / "sub").mkdir(parents=True)
    encoded = io.BytesIO()
    soundfile.write(encoded, [0.1] * 1600, 16_000, format="WAV")
    for name in ("b.wav", "a.FLAC", "sub/c.ogg", "sub/d.m4b", "e.mov", "no_suffix", "odd.dat"):
        (tmp_path / "speech" / name).write_bytes(encoded.getvalue())
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [str(path) for path in paths]


ALL = ["a.FLAC", "b.wav", "e.mov", "no_suffix", "odd.dat", "sub/c.ogg", "sub/d.m4b"]
ALL = [f"speech/{name}" for name in ALL]


def test_a_folder_is_its_recordings_and_names_what_is_skipped(folder, caplog):
    caplog.set_level(logging.INFO)
    assert names(find_audio(["speech"])) == ALL
    assert caplog.text == ""
    (folder / "speech" / "._b.wav").write_bytes(b"what macOS leaves on other disks")
    for name in ("notes.txt", "cover.jpg", "sub/list.csv", "sub/page.html"):
        (folder / "speech" / name).write_text("no recording")
    (folder / "speech" / "gone.wav").symlink_to("nowhere")
    assert names(find_audio(["speech"])) == ALL
    expected = "speech: 5 files that are no recordings are skipped: cover.jpg, gone.wav, notes.txt and 2 more"
    assert [record.getMessage() for record in caplog.records] == [expected]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(folder, caplog):
    (folder / "speech" / "sub").chmod(0)
    assert len(find_audio(["speech"])) == 5
    assert "speech/sub cannot be read (Permission denied)" in caplog.text


@pytest.mark.parametrize("held", [[], ["a.txt", "b.zip"]])
def test_a_folder_without_recordings_says_what_it_holds(tmp_path, held):
    for name in held:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="no audio file under it; it " + ("holds a.txt, b.zip" if held else "is empty")):
        find_audio([tmp_path])


def test_patterns_home_and_recordings_given_twice(folder, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(folder))
    assert names(find_audio(["speech/*.wav", "speech/**/c.*"])) == ["speech/b.wav", "speech/sub/c.ogg"]
    assert find_audio(["~/speech/b.wav"]) == [folder / "speech" / "b.wav"]
    assert names(find_audio(["speech/b.wav", "speech"])) == [
        "speech/b.wav",
        *[one for one in ALL if "b.wav" not in one],
    ]
    assert "1 recording is given twice, and read once" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "https://a.org/x%20y/talk.mp3?a=1",
            "URL, and only files are read.\n-> curl -L -o 'talk.mp3?a=1' 'https://a.org",
        ),
        ("https://www.youtube.com/", "-> curl -L -o www.youtube.com https://www.youtube.com/, and give the file"),
        ("s3://bucket/a.wav", "it is a URL, and only files are read.\n-> download it, and give the file"),
        ("gone.wav", "there is no such file or folder"),
        ("*.nothing", "there is no such file or folder"),
        ("link.wav", "a link to 'nowhere.wav', which does not exist"),
        ("text.txt", "it is no recording, and none of its 2 lines names a file that exists; the first is 'Dear all,'"),
        ("empty.txt", "none of its 0 lines names a file"),
        ("other.csv", "none of its columns (a, b) is one of audio, file_name"),
        ("bad.jsonl", "it is no table of JSONL"),
    ],
)
def test_what_is_no_recording_is_refused_in_words(folder, given, message):
    (folder / "link.wav").symlink_to("nowhere.wav")
    (folder / "text.txt").write_text("Dear all,\n\nhello.\n")
    (folder / "empty.txt").touch()
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "bad.jsonl").write_text("{\n")
    with pytest.raises(UserError) as error:
        find_audio([given])
    assert message in str(error.value)


LISTS = {
    "a.txt": "\ufeffspeech/b.wav\r\n\nsub/c.ogg\ngone.wav\n",  # the second is relative to the list
    "a.lst": "speech/b.wav\thello\nsub/c.ogg \ngone.wav",
    "a.csv": 'id,file_name,text\n1,speech/b.wav,"hello, you"\n2,sub/c.ogg,x\n3,gone.wav,y\n',
    "a.tsv": "path\tsentence\nspeech/b.wav\tx\nsub/c.ogg\ty\ngone.wav\tz\n",
    "a.jsonl": '{"audio_filepath": "speech/b.wav"}\n{"audio_filepath": "sub/c.ogg"}\n{"audio_filepath": "gone.wav"}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_its_files(folder, name):
    (folder / "speech" / name).write_text(LISTS[name], "utf-8")
    assert names(find_audio([f"speech/{name}"])) == ["speech/b.wav", "speech/sub/c.ogg", "gone.wav"]


def test_nested_audio_of_datasets_and_a_recording_named_like_a_list(folder):
    rows = "\n".join(json.dumps({"audio": {"path": name, "bytes": None}}) for name in ("speech/b.wav", "x.wav"))
    assert names(listed(rows.encode(), folder, "rows", ".jsonl")) == ["speech/b.wav", "x.wav"]
    (folder / "speech" / "b.wav").rename(folder / "b.txt")
    assert names(find_audio(["b.txt"])) == ["b.txt"]


def test_standard_input_is_a_list_or_a_recording(folder, monkeypatch):
    recording = (folder / "speech" / "b.wav").read_bytes()

    def given(content: bytes, *arguments: str):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return given_audio(arguments)

    assert given(b"speech/b.wav\ngone.wav\n", "-") == [Path("speech/b.wav"), Path("gone.wav")]
    assert given(b"speech/b.wav\n", "speech/e.mov", "-") == [Path("speech/e.mov"), Path("speech/b.wav")]
    assert given(recording, "-") == [{"path": "-", "bytes": recording}]
    with pytest.raises(UserError, match="a recording from standard input has no name"):
        given(recording, "speech/e.mov", "-")


def test_outputs_of_recordings_of_one_name_are_told_apart(folder):
    (folder / "more").mkdir()
    (folder / "more" / "b.wav").touch()
    given = ["speech/b.wav", "more/b.wav"]
    assert names(relative_names(list(map(Path, given)), given)) == ["speech/b.wav", "more/b.wav"]
    assert names(relative_names(find_audio(["speech"]), ["speech"])) == [one.removeprefix("speech/") for one in ALL]
    assert names(relative_names([Path("speech/b.wav")] * 2, [])) == ["b.wav", "b.wav"]
