"""The layout of LJSpeech."""

from __future__ import annotations

from sft_speech.corpora.layouts.ljspeech import LJSpeech
from sft_speech.corpora.report import Dropped


def test_rows(tmp_path, write):
    for name in ("a", "b", "c", "d"):
        write(f"wavs/{name}.wav")
    lines = ["a|It cost $5|It cost five dollars", 'b|"Quoted, he said|', "c|only one", "gone|text|text", "", "broken"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    listing = LJSpeech(tmp_path).listing()
    rows = listing.rows.to_pylist()
    assert [(row["id"], row["text"]) for row in rows] == [
        ("a", "It cost five dollars"),
        ("b", '"Quoted, he said'),
        ("c", "only one"),
        ("gone", "text"),
    ]
    assert rows[0]["path"] == str(tmp_path / "wavs" / "a.wav")
    assert rows[0]["speaker"] == ""
    assert rows[3]["path"] == str(tmp_path / "wavs" / "gone.wav")
    assert listing.dropped == [Dropped("broken", "unreadable row", "line 6 is not ID|text|normalized text")]
    assert listing.unlisted == [Dropped("d", "no transcript", str(tmp_path / "wavs" / "d.wav"))]
