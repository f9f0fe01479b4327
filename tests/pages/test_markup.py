"""Untrusted text never becomes markup, and differences are marked by word."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page

from sft_speech.pages.markup import corrected, differences, shown, user


@given(st.text())
def test_shown_texts_hold_no_markup_and_nothing_invisible(text):
    assert not set(shown(text)) & set("<>\"'")
    assert re.sub(r"&(?:lt|gt|quot|amp|#x27);", "", shown(text)).count("&") == 0
    parsed = Page(f"<p>{user(text)}</p>")
    assert [tag for tag, _ in parsed.tags] == ["p", "bdi"]


def test_lone_surrogates_are_shown():
    assert shown("a\udcffb") == "a⟨U+DCFF⟩b"


def test_differences_are_marked_by_word():
    assert differences("the cat sat", "the bat sat down") == (
        "<bdi>the</bdi> <del><bdi>cat</bdi></del> <bdi>sat</bdi>",
        "<bdi>the</bdi> <ins><bdi>bat</bdi></ins> <bdi>sat</bdi> <ins><bdi>down</bdi></ins>",
    )
    assert differences("<b>", "") == ("<del><bdi>&lt;b&gt;</bdi></del>", "")
    assert differences("", "") == ("", "")


def test_a_hypothesis_is_corrected_by_word():
    assert corrected("the cat sat", "the bat sat down") == (
        "<bdi>the</bdi> <del><bdi>cat</bdi></del> <ins><bdi>bat</bdi></ins> <bdi>sat</bdi> <ins><bdi>down</bdi></ins>"
    )
    assert corrected("<b>", "") == "<del><bdi>&lt;b&gt;</bdi></del>"
    assert corrected("", "") == ""
