"""Times in tables."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.corpora.times import columns_of, unit_of
from sft_speech.errors import UserError


def segments_of(path, header, *rows):
    path.write_text("\n".join([f"audio,text,{header}", *(f"a.wav,A,{row}" for row in rows)]) + "\n")
    listing = Manifest(path).listing()
    return [(row["start"], row["end"]) for row in listing.rows.to_pylist()], listing


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("start,end", "1.5,3.5"),
        ("onset,offset", "1.5,3.5"),
        ("onset,duration", "1.5,2"),
        ("offset,duration", "1.5,2"),
        ("begin_time,end_time", "1.5,3.5"),
        ("begin,stop", "1.5,3.5"),
        ("start_time,duration", "1.5,2"),
        ("tmin,tmax", "1.5,3.5"),
        ("segment_start,segment_end", "1.5,3.5"),
        ("startTime,endTime", "1.5,3.5"),
        ("Start (s),End (s)", "1.5,3.5"),
        ("start_ms,end_ms", "1500,3500"),
        ("Onset [ms],Duration [ms]", "1500,2000"),
        ("offset_milliseconds,length_milliseconds", "1500,2000"),
        ("start_ms,end_ms,start_time,end_time", "1500,3500,1.5,3.5"),
        ("start_ms,duration_seconds", "1500,2"),
        ("start,end", "00:00:01.500,00:00:03.500"),
        ("start,end", '"00:00:01,500","00:00:03,500"'),
        ("start,end", "0:01.5,0:03.5"),
        ("start,end", "1.5 s,3500ms"),
        ("start_ms,end_ms", "00:01.5,3500"),
        ("start,length", "1.5,2"),
    ],
)
def test_names_and_forms_of_times(tmp_path, header, row):
    assert segments_of(tmp_path / "m.csv", header, row)[0] == [(1.5, 3.5)]


def test_long_times_and_bad_ones(tmp_path):
    spans, listing = segments_of(tmp_path / "m.csv", "start,end", "1:02:03.25,1:02:04", "00:00:01:12,2", "one,2", "1,")
    assert spans == [(3723.25, 3724.0), (1.0, None)]
    assert [row.reason for row in listing.dropped] == ["bad segment"] * 2


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("start_frame,end_frame", "15,35", "'start_frame' counts frames, whose length is not known"),
        ("start,end_ms", "1.5,3500", r"different units: start \(no unit\) and end_ms \(milliseconds\)"),
        ("start_sample,end_ms", "1,3500", r"start_sample \(samples\) and end_ms"),
        ("begin,start_time,end", "1,2,3", "the start can be in any of the columns begin, start_time"),
    ],
)
def test_units_that_are_not_known(tmp_path, header, row, message):
    with pytest.raises(UserError, match=message):
        segments_of(tmp_path / "m.csv", header, row)


def test_durations_without_a_start_are_those_of_the_files(tmp_path):
    assert segments_of(tmp_path / "m.csv", "duration,num_frames", "3,48000")[0] == [(None, None)]


def test_a_start_without_an_end_is_warned_of(tmp_path, caplog):
    assert segments_of(tmp_path / "m.csv", "start,till", "1,2")[0] == [(1.0, None)]
    assert "starts and no ends" in caplog.text


def test_names():
    assert columns_of("end", ["offset", "end_ms"]) == ["end_ms"]
    assert columns_of("start", ["restart", "starter", "start_date", "the start"]) == []
    assert [unit_of(name) for name in ("start", "n_samples", "my_ms")] == ["unknown", "samples", "milliseconds"]


def corpus_of(tmp_path, header, rows, report=None):
    (tmp_path / "m.csv").write_text("\n".join([f"audio,text,id,{header}", *rows]) + "\n")
    corpus = load_corpus(tmp_path / "m.csv", report=report)
    return [(row["id"], row["start"], row["seconds"]) for row in corpus]


TEXT = "something of forty characters is said he"


def test_samples_by_name(tmp_path, write):
    write("a.wav", 4.0, rate=8000)
    rows = corpus_of(tmp_path, "start_sample,num_samples", [f"a.wav,{TEXT},x,8000,16000"])
    assert rows == [("x", 1.0, 2.0)]


def test_values_that_cannot_be_seconds(tmp_path, write, caplog):
    write("a.wav", 4.0)
    in_ms = [f"a.wav,{TEXT},x,0,2000", f"a.wav,{TEXT},y,1500,4000", f"a.wav,{TEXT},z,1,9000"] + [
        f"a.wav,{TEXT},{n},1000,4000" for n in range(10)
    ]
    report = CorpusReport()
    rows = corpus_of(tmp_path, "start,end", in_ms, report)
    assert rows[:2] == [("x", 0.0, 2.0), ("y", 1.5, 2.5)]
    assert "m.csv: start and end are read as milliseconds: as seconds, 13 of 13 segments are not" in caplog.text
    assert [row.id for row in report.dropped("m.csv")] == ["z"]  # it reaches over the end of the file
    in_samples = [f"a.wav,{TEXT},x,0,32000", f"a.wav,{TEXT},y,24000,64000"]
    assert corpus_of(tmp_path, "begin,end", in_samples) == [("x", 0.0, 2.0), ("y", 1.5, 2.5)]
    assert "are read as samples" in caplog.text


def test_a_unit_that_can_be_one_of_two_is_asked_for(tmp_path, write):
    write("a.wav", 4.0)
    with pytest.raises(UserError, match=r"may be milliseconds or samples\.\n-> add the unit"):
        corpus_of(tmp_path, "start,end", ["a.wav,,x,0,2000"])


def test_some_bad_segments_do_not_change_the_unit(tmp_path, write, caplog):
    write("a.wav", 4.0)
    report = CorpusReport()
    rows = [f"a.wav,{TEXT},x,0,2", f"a.wav,{TEXT},y,1,3", f"a.wav,{TEXT},z,5,7"]
    assert corpus_of(tmp_path, "start,end", rows, report) == [("x", 0.0, 2.0), ("y", 1.0, 2.0)]
    assert [row.reason for row in report.dropped("m.csv")] == ["bad segment"]
    assert "read as" not in caplog.text


def test_segments_just_outside_of_their_files_are_bad_ones(tmp_path, write):
    write("a.wav", 4.0)
    report = CorpusReport()
    rows = [f"a.wav,{TEXT},x,0,2", f"a.wav,{TEXT},y,30,35", f"a.wav,{TEXT},z,5,7"]
    assert corpus_of(tmp_path, "start,end", rows, report) == [("x", 0.0, 2.0)]
    assert [row.reason for row in report.dropped("m.csv")] == ["bad segment"] * 2


def test_files_that_have_been_cut_are_taken_whole(tmp_path, write, caplog):
    for n in range(4):
        write(f"{n}.wav", 1.0 + n)
    rows = [f"{n}.wav,{TEXT},{n},{10 * n},{10 * n + 1 + n}" for n in range(4)]
    assert corpus_of(tmp_path, "begin_time,end_time", rows) == [(str(n), None, 1.0 + n) for n in range(4)]
    assert "each is taken whole" in caplog.text
    assert np.isclose(sum(row[2] for row in corpus_of(tmp_path, "start,end", rows[:1])), 1.0)
