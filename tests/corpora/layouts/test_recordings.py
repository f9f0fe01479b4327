"""A folder of recordings without transcripts."""

from __future__ import annotations

import pytest

from sft_speech.corpora import load_corpus
from sft_speech.errors import UserError


def test_recordings_are_read_if_no_transcripts_are_needed(tmp_path, write):
    for name, seconds in (("b.wav", 1.0), ("sub/a.wav", 2.0), ("sub/deeper/c.wav", 0.5)):
        write(f"c/{name}", seconds)
    (tmp_path / "c/notes.md").write_text("no audio")
    rows = load_corpus(tmp_path / "c", columns={"text": None})
    assert [(row["id"], row["seconds"], row["text"]) for row in rows] == [
        ("b.wav", 1.0, ""),
        ("sub/a.wav", 2.0, ""),
        ("sub/deeper/c.wav", 0.5, ""),
    ]
    assert len(load_corpus(tmp_path / "c", "[2:]", columns={"text": None})) == 1
    with pytest.raises(UserError, match="train"):
        load_corpus(tmp_path / "c", "train", columns={"text": None})
    with pytest.raises(UserError, match="no corpus of a known layout"):
        load_corpus(tmp_path / "c")


def test_a_table_has_priority(tmp_path, write):
    write("c/a.wav", 1.0)
    write("c/b.wav", 1.0)
    (tmp_path / "c/metadata.csv").write_text("file_name\na.wav\n")
    assert len(load_corpus(tmp_path / "c", columns={"text": None})) == 1


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        load_corpus(tmp_path / "c", columns={"text": None})
