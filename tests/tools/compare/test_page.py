"""The page: names never become markup, nothing is loaded from elsewhere; the picture is drawn for any candidates."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from comparisons import compared, finished, recognized
from parsed_page import Page

from sft_speech.tools.compare.judge import judge
from sft_speech.tools.compare.outcomes import Outcome
from sft_speech.tools.compare.page import page
from sft_speech.tools.compare.picture import DARK, picture

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e\n$x^2$ | strategy=all"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    outcomes = [
        finished(folder, f"{HOSTILE}{n}", recognized([n % 5] * 20), settings={HOSTILE: n % 2}, bytes=1000 * (n + 1))
        for n in range(4)
    ]
    outcomes.append(Outcome(HOSTILE, {}, Path("x"), "failed", HOSTILE, {}, [], 0, 0, 0, None, 0, None, None))
    return page(judge(compared(outcomes, command=f"sft-speech compare {HOSTILE}")))


def test_nothing_in_names_is_markup(hostile):
    parsed = Page(hostile)
    assert parsed.open == []
    assert sum(tag == "img" for tag, _ in parsed.tags) == 1
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert "<img src=x onerror=alert(1)>" in parsed.words
    assert "\u202e" not in hostile
    assert "⟨U+202E⟩" in parsed.words


def test_nothing_is_loaded_from_elsewhere(hostile):
    parsed = Page(hostile)
    links = [value for _, one in parsed.tags for name, value in one.items() if name in ("src", "href", "srcset")]
    assert len(links) == 2
    assert all(value.startswith("data:image/png;base64,") for value in links)
    assert not re.search(r"@import|url\(", hostile)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in parsed.tags)


def test_the_reason_of_a_failure_takes_the_row(tmp_path):
    outcomes = [finished(tmp_path, name, recognized([n] * 8), bytes=1000) for n, name in enumerate("ab")]
    failed = Outcome("c", {}, tmp_path, "failed", "no <layers>", {}, [], 0, 0, 0, None, 0, None, None)
    text = page(judge(compared([*outcomes, failed])))
    assert re.search(
        r'<th scope="row"><bdi>c</bdi></th><td class="why" colspan="\d"><bdi>failed: no &lt;layers&gt;', text
    )
    rows = re.findall(r"<tr.*?</tr>", text.split("Candidates</h2>")[1].split("</table>")[0])
    widths = [sum(int(n or 1) for n in re.findall(r'<t[hd](?: [^>]*?colspan="(\d+)")?[^>]*>', row)) for row in rows]
    assert len(widths) == 4
    assert len(set(widths)) == 1


def test_a_page_without_a_finished_candidate(tmp_path):
    outcome = Outcome("a", {}, tmp_path, "failed", "broken", {}, [], 0, 0, 0, None, 0, None, None)
    found = judge(compared([outcome]))
    assert picture(found) is None
    parsed = Page(page(found))
    assert parsed.open == []
    assert "No candidate finished" in parsed.words


@pytest.mark.parametrize("count", [1, 2, 16, 60])
def test_the_picture_has_a_row_per_candidate(tmp_path, count):
    from matplotlib.image import imread

    outcomes = [
        finished(tmp_path, f"candidate {n}", recognized([n % 7 + 60 * (n == 9)] * 8), bytes=1000 * n + 1)
        for n in range(count)
    ]
    found = judge(compared(outcomes))
    light, dark = (imread(io.BytesIO(drawn or b"")) for drawn in (picture(found), picture(found, DARK)))
    assert light.shape == dark.shape
    assert light.mean() > 0.8 > 0.4 > dark[..., :3].mean()
    assert light.shape[0] >= 30 * min(count, 40)  # pixels: a name needs about 16


def test_figures_that_are_all_zero_are_drawn(tmp_path):
    outcomes = [finished(tmp_path, name, recognized([0] * 8)) for name in "ab"]
    drawn = picture(judge(compared(outcomes)))
    assert drawn is not None
    assert np.frombuffer(drawn[:4], np.uint8).tolist() == [0x89, 0x50, 0x4E, 0x47]
