from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.tasks.asr.recognizer import Span
from sft_speech.tasks.asr.subtitles import (
    CUE_SECONDS,
    LINE_CHARACTERS,
    Cue,
    cues,
    single_cues,
    srt,
    vtt,
    width,
)


def words_of(text: str, start: float = 0.0, each: float = 0.3, gap: float = 0.1) -> list[Span]:
    return [Span(w, start + n * (each + gap), start + n * (each + gap) + each) for n, w in enumerate(text.split())]


def test_srt_and_vtt_are_literal():
    shown = [Cue("Hello & <you>", 0.0, 1.5), Cue("again", 3661.0419, 3662.9996)]
    assert srt(shown) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello & <you>\n\n2\n01:01:01,042 --> 01:01:03,000\nagain\n"
    )
    assert vtt(shown) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello &amp; &lt;you&gt;\n\n01:01:01.042 --> 01:01:03.000\nagain\n"
    )


@pytest.mark.parametrize("write", [srt, vtt])
def test_text_cannot_begin_another_cue(write):
    """A vocabulary may come from anywhere, and hold line breaks."""
    evil = "\n\n9\n00:00:07,000 --> 00:00:09,000\n<script>\x1b[2J"
    for shown in (cues([Span(evil, 0.0, 1.0)], 1.0), single_cues([Span(evil, 0.0, 1.0)])):
        text = write(shown)
        assert text.count("-->") == len(shown)
        assert "\n\n9\n" not in text
        assert "\x1b" not in text


def test_no_words_make_a_valid_file():
    assert cues([], 5.0) == []
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n"


def test_a_pause_ends_a_cue_and_a_short_cue_stays_for_a_second():
    shown = cues([*words_of("good morning"), *words_of("everybody", start=3.0)], 3.5)
    assert shown == [Cue("good morning", 0.0, 1.0), Cue("everybody", 3.0, 3.5)]


def test_two_lines_of_nearly_equal_length():
    (cue,) = cues(words_of("this is a line which is just a little too long for one", each=0.1), 10.0)
    assert cue.text == "this is a line which is just\na little too long for one"


def test_a_full_cue_is_cut_at_a_short_pause():
    first = words_of("one two three four five six seven eight nine ten eleven", each=0.2)
    second = words_of("twelve thirteen fourteen fifteen sixteen", start=first[-1].end + 0.4, each=0.2)
    shown = cues([*first, *second], 20.0)
    assert shown[0].text.split()[-1] == "eleven"


def test_a_script_without_spaces_is_cut_too():
    shown = cues([Span("言" * 200, 0.0, 20.0)], 20.0)
    assert "".join(cue.text for cue in shown).replace("\n", "").replace(" ", "") == "言" * 200
    assert all(len(line) <= LINE_CHARACTERS for cue in shown for line in cue.text.split("\n"))


def test_one_cue_per_word_or_character():
    assert single_cues([Span("a", 0, 0.1), Span(" ", 0.1, 0.2), Span("b", 0.2, 0.3)]) == [
        Cue("a", 0, 0.1),
        Cue("b", 0.2, 0.3),
    ]


words = st.lists(
    st.tuples(st.text("abcdef", min_size=1, max_size=60), st.floats(0, 3), st.floats(0.02, 9)), max_size=60
)


@settings(deadline=None)  # a busy machine is not a failure
@given(words)
def test_cues_hold_every_word_in_order_and_never_overlap(drawn):
    at, spans = 0.0, []
    for text, gap, length in drawn:
        spans.append(Span(text, at + gap, at + gap + length))
        at += gap + length
    shown = cues(spans, at)
    assert "".join(re.sub(r"\s", "", cue.text) for cue in shown) == "".join(span.text for span in spans)
    longest = max((length for _, _, length in drawn), default=0)
    for cue, following in zip(shown, [*shown[1:], None], strict=False):
        assert 0 <= cue.start <= cue.end <= at + 1e-6
        assert following is None or cue.end <= following.start + 1e-6
        assert cue.end - cue.start <= max(CUE_SECONDS, longest) + 1e-6
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(len(line) <= LINE_CHARACTERS for line in lines)


def test_characters_of_a_script_without_spaces_are_cut_at_pauses():
    """A recording of 43.9 s was one cue."""
    times = [0.25 * n + (2.0 if n >= 20 else 0.0) for n in range(160)]
    spans = [Span("言", at, at + 0.2, glued=n > 0) for n, at in enumerate(times)]
    shown = cues(spans, 43.9)
    assert (shown[0].text, shown[0].start, shown[0].end) == ("言" * 10 + "\n" + "言" * 10, 0.0, 4.95)
    assert shown[1].start == 7.0
    lines = [line for cue in shown for line in cue.text.split("\n")]
    assert "".join(lines) == "言" * 160
    assert max(map(len, lines)) <= 16
    assert max(cue.end - cue.start for cue in shown) <= CUE_SECONDS


def test_words_are_joined_as_they_were_written():
    mixed = [Span("我", 0, 1), Span("用", 1, 2, glued=True), Span("machine", 2, 3), Span("好", 3, 4, glued=True)]
    assert cues(mixed, 4.0)[0].text == "我用 machine好"
    assert width("ที่") == 1
    assert width("言") == LINE_CHARACTERS / 16
