"""Transcripts in another script than that of their language."""

from __future__ import annotations

from collections import Counter

import pytest

from sft_speech.text.scripts import SCRIPTS, foreign_script, has_no_spaces, most_common_script, script_of


@pytest.mark.parametrize(
    ("text", "language", "script"),
    [
        ("Good morning, naïve Łódź", "en", None),
        ("Доброе утро", "en", "Cyrillic"),
        ("Доброе утро", "ru", None),
        ("Dobroe utro", "ru", None),
        ("Dobar dan", "sr", None),
        ("Добар дан", "sr", None),
        ("صباح الخير", "hi", "Arabic"),
        ("αβ test", "en", None),
        ("αβγδε test", "en", "Greek"),
        ("日本語のテスト", "ja", None),
        ("日本語のテスト", "zh", "Katakana"),
        ("日本", "ko", None),
        ("안녕하세요", "ja", "Hangul"),
        ("ދިވެހި", "si", None),
        ("12.5 %", "ru", None),
        ("", "ru", None),
    ],
)
def test_foreign_script(text, language, script):
    found = foreign_script(text, language)
    assert found == script


@pytest.mark.parametrize(("letter", "script"), [("a", None), ("я", "CYRILLIC"), ("क", "DEVANAGARI"), ("字", "CJK")])
def test_script_of(letter, script):
    assert script_of(letter) == script


def test_every_language_is_one_of_whisper():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    assert {code for codes in SCRIPTS.values() for code in codes.split()} <= LANGUAGES.keys()


@pytest.mark.parametrize(
    ("text", "unspaced"),
    [
        ("我们今天去公园", True),
        ("今日はいい天気ですね。", True),
        ("สวัสดีครับวันนี้อากาศดีมาก ไปเที่ยวกันไหม", True),
        ("我们 今天 去 公园", False),  # cut into words
        ("오늘 날씨가 좋네요", False),
        ("hello world", False),
        ("我用 machine learning algorithms", False),
        ("", False),
    ],
)
def test_texts_without_spaces_between_words(text, unspaced):
    assert has_no_spaces([text]) is unspaced


def test_the_script_of_most_letters():
    assert most_common_script(Counter("привет, a")) == "Cyrillic"
    assert most_common_script(Counter("5!")) == "some"
