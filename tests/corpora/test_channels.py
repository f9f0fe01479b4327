"""Recordings of two channels: the one that a row names, the one that was chosen, and a warning about mixed ones."""

from __future__ import annotations

import logging

import datasets
import numpy as np
import pytest

from sft_speech.audio.read import read_row
from sft_speech.corpora import CorpusReport, channels, load_corpus, rows_of_dataset

RNG = np.random.default_rng(3)
LEFT, RIGHT = (RNG.normal(0, 0.1, 8000).astype(np.float32) for _ in range(2))
CALL = np.stack([LEFT, RIGHT], axis=1)


@pytest.fixture
def table(tmp_path, write, caplog):
    """Writes ``call.wav`` (two speakers), ``mono.wav`` and a table; returns its rows, the report and the warnings."""

    def load(text, **arguments):
        write("call.wav", samples=CALL, subtype="FLOAT")
        write("mono.wav", samples=LEFT, subtype="FLOAT")
        (tmp_path / "m.csv").write_text(text)
        report = CorpusReport()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            rows = load_corpus(tmp_path / "m.csv", name="m", report=report, **arguments)
        log = [one.getMessage() for one in caplog.records if one.name == channels.__name__]
        return rows, {row.id: (row.reason, row.detail) for row in report.dropped("m")}, log

    return load


def heard(rows) -> list[str]:
    """Which waveform each row holds."""
    known = {"left": LEFT, "right": RIGHT, "mix": CALL.mean(axis=1)}
    return [next(name for name, one in known.items() if np.allclose(read_row(row, 16_000), one)) for row in rows]


@pytest.mark.parametrize("names", [("0", "1"), ("left", "right"), ("A", "B"), ("1", "2"), ("L", "r"), ("0.0", "1.0")])
def test_two_rows_of_one_file_are_two_channels_and_no_duplicates(table, names):
    rows, dropped, log = table(f"audio,text,channel\ncall.wav,hello,{names[0]}\ncall.wav,goodbye,{names[1]}\n")
    assert [(row["id"], row["channel"], row["text"]) for row in rows] == [
        ("call.wav#left", 0, "hello"),
        ("call.wav#right", 1, "goodbye"),
    ]
    assert (heard(rows), dropped, log) == (["left", "right"], {}, [])


def test_an_id_that_two_channels_share(table):
    rows, dropped, _ = table("id,audio,text,channel\nc,call.wav,x,0\nc,call.wav,y,1\nd,mono.wav,z,\nc,call.wav,y,1\n")
    assert [(row["id"], row["channel"]) for row in rows] == [("c#left", 0), ("c#right", 1), ("d", None)]
    assert dropped == {"c#right": ("duplicate id", "an earlier row has it")}


def test_segments_of_channels(table):
    rows, _, _ = table("audio,text,start,end,channel\ncall.wav,x,0,0.25,0\ncall.wav,y,0,0.25,1\ncall.wav,z,0.25,,1\n")
    assert [row["id"] for row in rows] == [
        "call.wav#0.000-0.250#left",
        "call.wav#0.000-0.250#right",
        "call.wav#0.250-",
    ]
    assert [read_row(row, 16_000).tolist() for row in rows] == [
        LEFT[:4000].tolist(),
        RIGHT[:4000].tolist(),
        RIGHT[4000:].tolist(),
    ]


def test_numbers_of_channels_begin_at_0_or_1(table):
    """A file of one channel has no second one, so 1 is its first."""
    rows, dropped, log = table("audio,text,channel\nmono.wav,x,1\ncall.wav,y,1\n")
    assert ([row["channel"] for row in rows], dropped, log) == ([0, 0], {}, [])
    rows, dropped, log = table("audio,text,channel\ncall.wav,y,1\n")
    assert ([row["channel"] for row in rows], dropped) == ([1], {})
    assert [one.partition(": ")[2] for one in log] == [
        "channels are counted from 0, so that 1 is the right one; write left or right"
    ]


def test_a_channel_that_is_not_there(table):
    text = "audio,text,channel\nmono.wav,x,right\ncall.wav,y,2\ncall.wav,z,0\ncall.wav,w,middle\n"
    rows, dropped, _ = table(text.replace(",text,channel", ",text,side"), columns={"channel": "side"})
    assert [row["text"] for row in rows] == ["z"]
    assert dropped == {
        "mono.wav": ("no such channel", "channel right of a recording of one channel"),
        "call.wav": ("no such channel", "'middle': write 0 or left, 1 or right"),
        "call.wav#2": ("no such channel", "channel 2 of a recording of 2 channels"),
    }


def test_a_column_that_holds_something_else(table):
    rows, dropped, log = table("audio,text,channel\nmono.wav,x,CNN\n")
    assert (rows.column_names, dropped) == (["id", "audio", "text", "speaker", "seconds", "start"], {})
    assert [one.partition(": ")[2] for one in log] == [
        "its column channel is not read as the channel of a recording: 'CNN' is none"
    ]


@pytest.mark.parametrize(
    ("choice", "found", "gone"),
    [("left", ["left", "left"], []), ("right", ["right"], ["mono.wav"]), ("mix", ["mix", "left"], [])],
)
def test_a_channel_chosen_for_rows_that_name_none(table, choice, found, gone):
    rows, dropped, log = table("audio,text\ncall.wav,x\nmono.wav,y\n", channel=choice)
    assert (heard(rows), list(dropped), log) == (found, gone, [])


def test_the_channel_of_a_row_comes_before_the_chosen_one(table):
    rows, _, _ = table("audio,text,channel\ncall.wav,x,1\nmono.wav,y,\n", channel="left")
    assert [row["channel"] for row in rows] == [1, 0]


def test_channels_that_differ_are_said_before_they_are_mixed(table, tmp_path):
    rows, _, log = table("audio,text\ncall.wav,x\nmono.wav,y\n")
    assert heard(rows) == ["mix", "left"]
    assert "channel" not in rows.column_names
    assert log == [
        f"{tmp_path / 'm.csv'}: in 1 of 1 recording with several channels, these differ "
        f"({tmp_path / 'call.wav'}) and are mixed. If each has a speaker, set channel to left or right, or give the "
        "table a column channel; mix accepts this"
    ]


def test_inverted_channels_are_said_and_do_not_become_silence(table, write, tmp_path):
    write("inverted.wav", samples=np.stack([LEFT, -LEFT], axis=1), subtype="FLOAT")
    rows, _, log = table("audio,text\ninverted.wav,x\n")
    assert np.abs(read_row(rows[0], 16_000)).tolist() == np.abs(LEFT).tolist()
    assert [one.partition(": ")[2] for one in log] == [
        "in 1 of 1 recording with several channels, these cancel each other "
        f"({tmp_path / 'inverted.wav'}): the louder one is used"
    ]


def test_a_sample_is_compared(write, monkeypatch, caplog):
    path = str(write("call.wav", samples=CALL))
    monkeypatch.setattr(channels, "_SAMPLED", 3)
    channels.warn_of_mixing([path] * 1000, "s", "do")
    assert "in 3 of 3 sampled of 1,000 recordings with several channels, these differ" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_datasets_have_channels(write, streaming):
    path = str(write("call.wav", samples=CALL, subtype="FLOAT"))
    given = datasets.Dataset.from_dict({"audio": [path] * 3, "text": ["x", "y", "z"], "channel": [0, 1, None]})
    given = given.to_iterable_dataset() if streaming else given
    rows = list(rows_of_dataset(given))
    assert [row["channel"] for row in rows] == [0, 1, None]
    assert heard(rows) == ["left", "right", "mix"]
    assert heard(rows_of_dataset(given.remove_columns("channel"), channel="right")) == ["right"] * 3


def test_rows_of_a_corpus_get_the_chosen_channel(table):
    rows, _, _ = table("audio,text,channel,start\ncall.wav,x,1,0\ncall.wav,y,,0.25\n")
    assert rows_of_dataset(rows) is rows
    chosen = rows_of_dataset(rows, channel="left")
    assert [(row["channel"], row["start"]) for row in chosen] == [(1, 0.0), (0, 0.25)]


def test_subsets_of_which_one_has_channels(tmp_path, write):
    for split, header, row in (
        ("train", "id,file_name,text,channel", "1,a.wav,x,1"),
        ("test", "id,file_name,text", "2,a.wav,y"),
    ):
        write(f"{split}/a.wav", samples=CALL)
        (tmp_path / split / "metadata.csv").write_text(f"{header}\n{row}\n")
    rows = load_corpus(tmp_path, "train+test", channel="mix")
    assert [row["channel"] for row in rows] == [1, None]
