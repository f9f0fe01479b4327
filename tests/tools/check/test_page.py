"""The page: corpus text never becomes markup, nothing is loaded from elsewhere, players and figures are complete."""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import re
from importlib.resources import files

import numpy as np
import pytest
import soundfile
from parsed_page import Page

from sft_speech.cli import main
from sft_speech.tools.check.check import add_arguments
from sft_speech.tools.check.checked import examine
from sft_speech.tools.check.page import page

RATE = 16_000
HOSTILE = '<script>alert("1")</script> \'"&\u202e\x1b[31m'
MODEL = str(files("sft_speech").joinpath("assets/wav2vec2-small"))
TAGS = set(
    "html head meta title style body main h1 h2 h3 p dl dt dd div span nav ul li a section article table thead tbody "
    "tr th td img audio figure figcaption svg rect title path circle text b bdi del ins".split()
)


def loud() -> np.ndarray:
    """Return a clipped second."""
    hum = np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE) * np.linspace(0.1, 3, RATE)
    return np.clip(hum, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def hostile(build, tmp_path_factory) -> str:
    """The page of a corpus whose names and texts are attacks."""
    folder = tmp_path_factory.mktemp("hostile")
    builder = build(folder / "<img src=x onerror=alert(1)>")
    hum = 0.1 * loud()
    for number in range(12):
        builder.add("train", f"{HOSTILE} {number}", f"{builder.sentence('train')} {HOSTILE}", f"{HOSTILE} x", hum)
    builder.add("train", f"{HOSTILE} loud", HOSTILE, "</style><script>", np.tile(loud(), 40))
    builder.add("test", "plain")
    for split, rows in builder.rows.items():
        for row in rows:
            name = f"'\"><svg onload=alert(1)>{row['file_name']}"
            (builder.folder / split / row["file_name"]).rename(builder.folder / split / name)
            row["file_name"] = name
    builder.write()
    file = folder / "page.html"
    assert main(["check", str(builder.folder), "--model", MODEL, "--html", str(file)]) == 0
    return file.read_text("utf-8")


def test_nothing_in_names_and_transcripts_is_markup(hostile):
    parsed = Page(hostile)
    assert parsed.open == []
    assert {tag for tag, _ in parsed.tags} <= TAGS
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert '<script>alert("1")</script>' in parsed.words  # shown as what it is
    assert not set(hostile) & set("\u202e\x1b")
    assert "⟨U+202E⟩" in parsed.words


def test_nothing_is_loaded_from_elsewhere(hostile):
    parsed = Page(hostile)
    links = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(value.startswith(("data:image/png;base64,", "data:audio/flac;base64,", "#")) for value in links)
    anchors = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    assert {value[1:] for value in links if value.startswith("#")} <= anchors
    (policy,) = [tag["content"] for tag in parsed.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    style = re.search("<style>(.*?)</style>", hostile, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'"
    assert "url(" not in style
    assert "@import" not in style


def test_players_play_the_recordings_and_are_bounded(hostile):
    players = Page(hostile).all("audio")
    assert players
    lengths = []
    for player in players:
        assert player["aria-label"]
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(player["src"].partition(",")[2])))
        assert rate == RATE
        assert np.abs(samples).max() > 0.05
        lengths.append(len(samples) / rate)
    assert max(lengths) == pytest.approx(10)  # of a recording that is longer
    assert "the first 10 s" in hostile
    pictures = Page(hostile).all("img")
    assert len(pictures) == len(players)
    assert all(base64.b64decode(picture["src"].partition(",")[2]).startswith(b"\x89PNG") for picture in pictures)
    assert all(picture["alt"].startswith("spectrogram of ") for picture in pictures)


def test_figures_have_descriptions(hostile):
    pictures = Page(hostile).all("svg")
    assert len(pictures) >= 6
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)


def test_many_findings_make_no_large_page(build, tmp_path):
    """100 clipped recordings: some of them are listed, fewer have a player, and the page says so."""
    builder = build(tmp_path / "corpus")
    clipped = loud()
    for number in range(100):
        builder.add("train", f"{number}", f"number {number}", "anna", clipped[number:])
    builder.add("test", "plain")
    builder.write()
    assert main(["check", str(builder.folder), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert len(Page(text).all("audio")) == 12  # 6 of them, and 6 of those that are the same once cut
    assert "6 of them have a player" in text
    assert "30 of 100 are listed here" in text
    assert len(text) < 3_000_000
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    checked = examine(parser.parse_args([str(builder.folder)]))
    assert len(Page(page(checked, max_players=3)).all("audio")) == 3
