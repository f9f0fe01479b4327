"""The layout of CMU ARCTIC."""

from __future__ import annotations

import logging
import re

from sft_speech.cli import main
from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.arctic import Arctic
from sft_speech.corpora.report import Dropped

BDL = "cmu_us_bdl_arctic/"
PROMPTS = '( arctic_a0001 "Author of the \\"danger\\" trail, etc." )\n(arctic_a0002 "Not at (this) case.")\n'


def test_a_voice(fill, listed):
    folder = fill(
        {
            f"{BDL}etc/txt.done.data": PROMPTS + '( arctic_a0003 "Gone." )\nnonsense\n\n',
            f"{BDL}wav/arctic_a0001.wav": "",
            f"{BDL}wav/arctic_a0002.flac": "",
            f"{BDL}wav/arctic_b0009.wav": "",
            f"{BDL}lab/arctic_a0001.lab": "#\n0.1 121 pau\n",
        }
    )
    source = open_source(folder / BDL)
    assert listed(source) == [
        ("arctic_a0001", f"{BDL}wav/arctic_a0001.wav", 'Author of the "danger" trail, etc.', "bdl"),
        ("arctic_a0002", f"{BDL}wav/arctic_a0002.flac", "Not at (this) case.", "bdl"),
    ]
    assert source.listing().dropped == [
        Dropped("arctic_a0003", "missing file", "no wav/arctic_a0003.wav"),
        Dropped("line 4", "unreadable row", 'line 4 is not ( ID "text" )'),
    ]
    assert source.listing().unlisted == [
        Dropped("arctic_b0009", "no transcript", str(folder / BDL / "wav/arctic_b0009.wav"))
    ]


def test_voices_with_the_same_sentences(fill, listed):
    files = {}
    for voice in ("cmu_us_slt_arctic", "cmu_us_bdl_arctic-0.95-release", "my_voice"):
        files |= {f"{voice}/etc/txt.done.data": '( a1 "Hello." )', f"{voice}/wav/a1.wav": ""}
    source = open_source(fill(files))
    assert isinstance(source, Arctic)
    assert source.splits() == []
    assert [(id, speaker) for id, _, _, speaker in listed(source)] == [
        ("bdl/a1", "bdl"),
        ("slt/a1", "slt"),
        ("my_voice/a1", "my_voice"),
    ]


def test_real_voices(data):
    report = CorpusReport()
    both = load_corpus(data / "cmu_arctic", name="x", report=report)
    assert len(both) == 340
    assert report.dropped("x") == []
    assert set(both["speaker"]) == {"bdl", "slt"}
    one = load_corpus(data / "cmu_arctic/cmu_us_slt_arctic")
    assert len(one) == 170
    assert one[0]["id"] == "arctic_a0001"
    assert one[0]["text"] == "Author of the danger trail, Philip Steels, etc."
    assert one[0]["speaker"] == "slt"
    assert load_corpus(data / "cmu_arctic", "speaker=slt")["text"][:] == one["text"][:]


def test_check_of_real_voices(data, capsys, caplog):
    caplog.set_level(logging.ERROR)
    assert main(["check", str(data / "cmu_arctic"), "--max_hours", "0"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^all +train +340 +0\.27 +2 +340 +0\.27$", shown, re.MULTILINE)
    assert "2 notes" in shown
