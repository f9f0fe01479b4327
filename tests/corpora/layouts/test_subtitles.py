"""SRT and WebVTT."""

from __future__ import annotations

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError

SRT = """1
00:00:00,500 --> 00:00:01,250
<i>Hello</i> {\\an8}<font color="#fff">there</font>,
- ANNA: 3 < 4 & 5.

2
00:00:01,200 --> 00:00:02,000 X1:40 X2:600
good day

3
00:00:02,000 --> 00:00:02,000
no time

4
00:00:02,100 --> 00:00:03,000
first of two

5
00:00:02,500 --> 00:00:03,200
second of two

6
00:00:04,000 -> 00:00:05,000
not --> times

7
00:00:05,000 --> 00:00:05,500
without a blank line
8
00:00:05,500 --> 00:00:06,000
between
"""
VTT = """WEBVTT - a talk

STYLE
::cue { color: red }

NOTE 00:00.000 --> 00:01.000
nothing

intro
00:00.500 --> 00:01.250 align:start
<v.loud Anna Smith>Fish &amp; <00:00:00.900><c>chips</c></v>

00:00:02.000 --> 00:00:03.000
<v Anna>Yes.</v>
<v Bob>No.</v>
"""


@pytest.fixture
def corpus(tmp_path, write):
    """Reads a file of subtitles of 10 s: its rows and what was dropped."""

    def read(name: str, content: str, recording: str = "talk.wav"):
        write(f"c/{recording}", 10.0)
        (tmp_path / "c" / name).write_text(content)
        report = CorpusReport()
        rows = load_corpus(tmp_path / "c", name="c", report=report)
        return [(row["text"], row["speaker"], row["start"], row["seconds"]) for row in rows], report.dropped("c")

    return read


def test_srt(corpus):
    rows, dropped = corpus("talk.srt", SRT)
    assert rows == [
        ("Hello there, - ANNA: 3 < 4 & 5.", "", 0.5, 0.75),
        ("good day", "", 1.2, pytest.approx(0.8)),
    ]
    assert sorted((row.id, row.reason) for row in dropped) == [
        ("talk.srt cue 3", "bad segment"),
        ("talk.srt cue 4", "overlapping cues"),
        ("talk.srt cue 5", "overlapping cues"),
        ("talk.srt cue 6", "unreadable row"),
        ("talk.srt cue 7", "unreadable row"),
    ]


def test_vtt(corpus):
    rows, dropped = corpus("talk.en-GB.vtt", VTT)
    assert rows == [("Fish & chips", "Anna Smith", 0.5, 0.75)]
    assert [(row.id, row.reason, row.detail) for row in dropped] == [
        ("talk.en-GB.vtt cue 2", "several speakers", "Anna, Bob")
    ]


def test_captions_that_roll_are_dropped(tmp_path, corpus):
    lines = [
        f"00:00:0{second}.000 --> 00:00:0{second + 1}.000\nline {second}\nline {second + 1}" for second in range(8)
    ]
    (tmp_path / "c").mkdir()
    (tmp_path / "c/rolling.vtt").write_text("WEBVTT\n\n" + "\n\n".join(lines))
    rows, dropped = corpus("talk.srt", SRT)
    assert len(rows) == 2
    assert (dropped[0].id, dropped[0].reason) == ("rolling.vtt", "unreadable")
    assert "captions that roll" in dropped[0].detail


def test_two_files_for_one_recording(tmp_path, corpus):
    corpus("talk.de.srt", SRT)
    with pytest.raises(UserError, match=r"both talk.de.srt and talk.en.srt annotate talk.wav.\n-> keep one of them"):
        corpus("talk.en.srt", SRT)
