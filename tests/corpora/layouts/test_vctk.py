"""The layout of VCTK."""

from __future__ import annotations

import pytest

from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.sidecars import Sidecars
from sft_speech.corpora.layouts.vctk import Vctk
from sft_speech.corpora.report import Dropped


@pytest.mark.parametrize("below", ["", "VCTK-Corpus-0.92"])
def test_one_microphone_is_taken(fill, listed, caplog, below):
    files = {
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": "",
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": "",
        "wav48_silence_trimmed/p280/p280_001_mic2.flac": "",
        "wav48_silence_trimmed/p315/p315_001_mic1.flac": "",
        "wav48_silence_trimmed/log.txt": "",
        "txt/p225/p225_001.txt": "Please call Stella.\n",
        "txt/p225/p225_002.txt": "Gone.",
        "txt/p280/p280_001.txt": "Ask her.",
        "speaker-info.txt": "ID AGE GENDER",
    }
    folder = fill({f"{below or '.'}/{name}": content for name, content in files.items()})
    source = open_source(folder)
    assert isinstance(source, Vctk)
    audio = (f"{below}/" if below else "") + "wav48_silence_trimmed"
    assert listed(source) == [
        ("p225_001", f"{audio}/p225/p225_001_mic1.flac", "Please call Stella.", "p225"),
        ("p280_001", f"{audio}/p280/p280_001_mic2.flac", "Ask her.", "p280"),
    ]
    assert "1 utterances were recorded by two microphones; the first, *_mic1, is taken" in caplog.text
    listing = source.listing()
    assert listing.dropped == [Dropped("p225_002", "missing file", "no recording in wav48_silence_trimmed")]
    assert [(row.id, row.reason) for row in listing.unlisted] == [("p315_001", "no transcript")]


def test_the_older_release(fill, listed):
    names = [f"{speaker}/{speaker}_00{number}" for speaker in ("p225", "p226") for number in (1, 2)]
    files = {f"VCTK-Corpus/wav48/{name}.wav": "" for name in names}
    files |= {f"VCTK-Corpus/txt/{name}.txt": f"Text of {name}." for name in names}
    source = open_source(fill({**files, "VCTK-Corpus/speaker-info.txt": "ID AGE"}))
    assert isinstance(source, Sidecars)
    assert listed(source)[0] == (
        "VCTK-Corpus/p225/p225_001",
        "VCTK-Corpus/wav48/p225/p225_001.wav",
        "Text of p225/p225_001.",
        "p225",
    )
    assert [row[3] for row in listed(source)] == ["p225", "p225", "p226", "p226"]
    assert source.listing().dropped == source.listing().unlisted == []
