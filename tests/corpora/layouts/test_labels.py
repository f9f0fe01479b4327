"""Tables of segments, and Audacity's labels."""

from __future__ import annotations

import pytest

from sft_speech.corpora import CorpusReport, load_corpus


def read(folder, columns=None):
    report = CorpusReport()
    rows = load_corpus(folder, name="c", report=report, columns=columns)
    return [(row["text"], row["speaker"], row["start"], row["seconds"]) for row in rows], report.dropped("c")


def test_a_table_of_segments(tmp_path, write):
    write("c/a.wav", 3.0)
    (tmp_path / "c/a.segments.csv").write_text(
        'id,start,end,speaker,text\n1,0.5,1.25,anna,"hello, you"\n2,x,2,anna,there\n\n3,1,2\n'
    )
    (tmp_path / "c/a.txt").write_text("hello, you there")
    write("c/b.wav", 3.0)
    (tmp_path / "c/b.segments.tsv").write_text('start\tduration\ttext\n0.5\t0.25\tso "he said\n')
    rows, dropped = read(tmp_path / "c")
    assert rows == [("hello, you", "anna", 0.5, 0.75), ('so "he said', "", 0.5, 0.25)]
    assert [(row.id, row.reason) for row in dropped] == [
        ("a.segments.csv row 3", "bad segment"),
        ("a.segments.csv row 5", "unreadable row"),
    ]


def test_a_table_without_times(tmp_path, write):
    write("c/a.wav", 3.0)
    write("c/b.wav", 3.0)
    (tmp_path / "c/a.segments.csv").write_text("start,end,words\n0,1,hello\n")
    (tmp_path / "c/b.segments.csv").write_text("words\nhello\n")
    rows, dropped = read(tmp_path / "c", {"text": "words"})
    assert rows == [("hello", "", 0.0, 1.0)]
    assert dropped[0].detail == "no columns for the start and the end: its columns are words"


def test_a_table_of_other_units_is_not_read_as_seconds(tmp_path, write):
    write("c/a.wav", 3.0)
    write("c/b.wav", 3.0)
    (tmp_path / "c/a.segments.csv").write_text("onset_ms,end_ms,text\n0,1,hello\n")
    (tmp_path / "c/b.segments.csv").write_text("start,end,text\n0,1,hello\n")
    rows, dropped = read(tmp_path / "c")
    assert rows == [("hello", "", 0.0, 1.0)]
    assert [(row.id, row.reason) for row in dropped] == [("a.segments.csv", "unreadable")]


def test_labels_of_audacity(tmp_path, write):
    write("c/a.wav", 3.0)
    (tmp_path / "c/a.txt").write_text(
        "0.500000\t1.250000\thello  you\n\\\t100.0\t200.0\n1,5\t2,0\tthere\n2.0\t2.5\t\nx\n"
    )
    rows, dropped = read(tmp_path / "c")
    assert rows == [("hello you", "", 0.5, 0.75), ("there", "", 1.5, 0.5)]
    assert [(row.id, row.reason) for row in dropped] == [("a.txt line 5", "unreadable row")]


def test_the_real_long_recording(data):
    rows, dropped = read(data / "longform")
    assert dropped == []
    assert len(rows) == 119
    assert rows[0] == ("CHAPTER THIRTY THREE ROMAN BANDITS", "", 0.0, 3.63)
    assert rows[-1][2:] == (1493.52, pytest.approx(14.52))
