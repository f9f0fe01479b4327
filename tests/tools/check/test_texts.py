"""Rules about transcripts."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tools.check.findings import listed, plain
from sft_speech.tools.check.texts import DAMAGED, pace_outliers, script


def test_pace_is_judged_against_the_median():
    usual = np.full(30, 10.0) * np.linspace(0.9, 1.1, 30)
    far, middle = pace_outliers(np.concatenate([usual, [3.9, 4.1, 24.0, 26.0]]))
    assert middle == pytest.approx(10.0, abs=0.1)
    assert far[30:].tolist() == [True, False, False, True]
    assert not far[:30].any()


def test_wide_paces_are_no_outliers_and_few_have_no_median():
    wide = np.exp(np.random.default_rng(0).normal(np.log(10), 0.5, 200))
    assert not pace_outliers(wide)[0].any()
    assert pace_outliers(np.array([10.0, 10.0, 1.0, 41.0]))[0].tolist() == [False, False, False, True]


@pytest.mark.parametrize("text", ["cafÃ©", "itâ€™s", "a\ufffdb", "GrÃ¶ÃŸe"])
def test_damaged_encoding(text):
    assert DAMAGED.search(text)


@pytest.mark.parametrize("text", ["café", "São Paulo", "Ångström", "naïve Größe", "Ça va", "it’s “so”"])
def test_intact_encoding(text):
    assert not DAMAGED.search(text)


def test_scripts():
    assert [script(c) for c in "aа1 ü漢かカ한ع"] == [
        *("LATIN", "CYRILLIC", "", "", "LATIN"),
        *("CJK", "CJK", "CJK", "CJK", "ARABIC"),
    ]


def test_control_characters_are_escaped_for_a_terminal():
    assert plain("a\x1b[31m\u202eb\n") == "a<U+001B>[31m<U+202E>b<U+000A>"
    assert plain("naïve 漢字 😀") == "naïve 漢字 😀"


def test_characters_are_listed_with_their_counts():
    assert listed({" ": 1234, "1": 2, "e": 1}, 2) == "space (1,234), 1 (2) and 1 more"
    assert listed({"e": 1}, 2) == "e (1)"
