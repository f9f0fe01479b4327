from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.text.markup import WithoutMarks, clean
from sft_speech.text.normalize import TranscriptNormalizer


@pytest.mark.parametrize(
    ("text", "spoken", "marks"),
    [
        # GigaSpeech
        ("AS THEY'RE LEAVING <COMMA> CAN I <QUESTIONMARK>", "AS THEY'RE LEAVING, CAN I?", "<COMMA> | <QUESTIONMARK>"),
        ("YES <EXCLAMATIONPOINT> <PERIOD>", "YES!.", "<EXCLAMATIONPOINT> | <PERIOD>"),
        ("<SIL>", "", "<SIL>"),
        ("<MUSIC> <NOISE> <OTHER>", "", "<MUSIC> | <NOISE> | <OTHER>"),
        # TED-LIUM
        ("it 's what we 're used to", "it's what we're used to", "'s | 're"),
        ("i don 't and he did n't", "i don't and he didn't", "don 't | n't"),
        ("{NOISE} the(2) end {SMACK} <unk>", "the end", "{NOISE} | (2) | {SMACK} | <unk>"),
        ("ignore_time_segment_in_scoring", "", "ignore_time_segment_in_scoring"),
        # Switchboard, Fisher
        (
            "[noise] yeah [laughter-right] [vocalized-noise]",
            "yeah right",
            "[noise] | [laughter-right] | [vocalized-noise]",
        ),
        ("[was/wasn't] ab[solute]- about_1 -[an]y", "was ab- about -y", "[was/wasn't] | [solute]- | _1 | -[an]"),
        ("<b_aside> come here <e_aside> (( i guess ))", "come here i guess", "<b_aside> | <e_aside> | (( i guess ))"),
        # transcription services
        ("so (inaudible) he (laughs) [crosstalk 00:12:31]", "so he", "(inaudible) | (laughs) | [crosstalk 00:12:31]"),
        # HTML
        (
            "R&amp;B &quot;x&quot; it&#39;s &lt;i&gt;",
            'R&B "x" it\'s',
            "&amp; | &quot; | &quot; | &#39; | &lt; | &gt; | <i>",
        ),
        ("caf&eacute;&nbsp;au&amp;#39;lait", "café au'lait", "&eacute; | &nbsp; | &amp; | &#39;"),
        ("<i>one</i> r<b>ed</b><br/>two", "one red two", "<i> | </i> | <br/> | <b> | </b>"),
    ],
)
def test_signs_of_known_conventions(text, spoken, marks):
    assert clean(text) == (spoken, Counter(marks.split(" | ")), Counter())


@pytest.mark.parametrize(
    "text",
    ["a < b and c > d, r&b; 3 & 4", "zo 's avonds in 't huis", "snake_case", "", "he's 'quoted' here", "5 (five)"],
)
def test_what_is_no_sign_stays(text):
    assert clean(text)[:2] == (text, Counter())


def test_clitics_are_english():
    assert clean("l 's", "fr").text == "l 's"
    assert clean("it 's", "en_GB").text == "it's"


def test_brackets_of_no_known_convention_are_counted():
    found = clean("[foo] so {bar} (and so on) <x-y>")
    assert found.text == "[foo] so {bar} (and so on) <x-y>"
    assert found.unknown == Counter(["[foo]", "{bar}", "(and so on)", "<x-y>"])


def test_normalized_says_what_was_removed():
    lower = TranscriptNormalizer.for_vocabulary([*"abcdefghijklmnopqrstuvwxyz", "'"])
    normalize = pickle.loads(pickle.dumps(WithoutMarks(lower, "en")))
    found = normalize("It 's R&amp;B <COMMA> [noise] café [foo]")
    assert found.text == "it's r and b cafe foo"
    assert found.marks == Counter(["'s", "&amp;", "<COMMA>", "[noise]"])
    assert (found.folded, found.unknown_marks) == (Counter("é"), Counter(["[foo]"]))


@given(st.text("<>[](){}&;abs/_1'-# ", max_size=40))
def test_any_text_is_cleaned(text):
    found = clean(text)
    assert found.text == text or found.marks
