"""Real speech of every layout, where there is some."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.audio.read import read
from sft_speech.audio.units import samples_of
from sft_speech.corpora import CorpusReport, load_corpus


@pytest.mark.parametrize(
    ("source", "split", "rows", "speakers"),
    [
        ("LibriSpeech", "dev-clean", 32, {"84", "2412", "6313"}),
        ("LibriSpeech", "test-other", 50, {"1688", "1998", "2033", "2414", "2609"}),
        ("LibriSpeech", "dev-clean+train-clean-100", 399, {"84", "2412", "6313", "19", "26", "27"}),
        ("LJSpeech-mini", None, 35, {""}),
        ("digits", None, 2000, {"george", "jackson", "lucas", "nicolas"}),
        ("digits", "speaker=george,jackson,lucas:100", 100, {"george", "jackson", "lucas"}),
    ],
)
def test_rows(data, source, split, rows, speakers):
    report = CorpusReport()
    corpus = load_corpus(data / source, split, name="x", report=report)
    assert len(corpus) == rows
    assert report.dropped("x") == []
    assert set(corpus["speaker"]) == speakers
    assert all(corpus["text"])
    for number in np.linspace(0, rows - 1, 5).astype(int).tolist():
        row = corpus[number]
        waveform = read(row["audio"], 16_000)
        assert waveform.shape == (samples_of(row["seconds"], 16_000),)
        assert 0.001 < waveform.std() < 0.5


def test_the_parts_of_a_folder_are_disjoint(data):
    parts = [set(load_corpus(data / "digits", split)["id"]) for split in (":0.1", "[0.1:0.9]", "[0.9:]")]
    assert [len(part) for part in parts] == [200, 1600, 200]
    assert len(set.union(*parts)) == 2000
