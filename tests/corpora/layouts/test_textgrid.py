"""Praat TextGrids."""

from __future__ import annotations

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "utterances"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "he said ""no"" 12 times"
        intervals [3]:
            xmin = 1.25
            xmax = 3
            text = "grüß
dich"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 3
        points: size = 1
        points [1]:
            number = 0.7
            mark = "click"
"""
ROWS = [("a.wav#0.500-1.250", 'he said "no" 12 times', 0.5, 0.75), ("a.wav#1.250-3.000", "grüß dich", 1.25, 1.75)]


def short(**tiers: list[tuple[float, float, str]]) -> str:
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "3", "<exists>", str(len(tiers))]
    for name, intervals in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0", "3", str(len(intervals))]
        lines += [line for start, end, text in intervals for line in (str(start), str(end), f'"{text}"')]
    return "\n".join(lines) + "\n"


def rows(corpus):
    return [(row["id"], row["text"], row["start"], pytest.approx(row["seconds"])) for row in corpus]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_long_form(tmp_path, write, encoding):
    write("c/a.wav", 3.0)
    (tmp_path / "c/a.TextGrid").write_text(LONG, encoding=encoding)
    assert rows(load_corpus(tmp_path / "c")) == ROWS


def test_the_short_form(tmp_path, write):
    write("c/wav/a.wav", 3.0)
    (tmp_path / "c/TextGrid").mkdir()
    words = [(0, 0.5, ""), (0.5, 1.25, 'he said ""no"" 12 times'), (1.25, 3, "grüß dich")]
    (tmp_path / "c/TextGrid/a.TextGrid").write_text(short(utterances=words, notes=[(0, 3, "")]))
    assert rows(load_corpus(tmp_path / "c")) == [(f"wav/{id}", *rest) for id, *rest in ROWS]


@pytest.fixture
def two_tiers(tmp_path, write):
    write("c/a.wav", 3.0)
    tiers = {"anna - words": [(0, 1, "hello")], "anna - phones": [(0, 1, "h")], "bob - words": [(0, 1, "there")]}
    (tmp_path / "c/a.TextGrid").write_text(short(**tiers))
    return tmp_path / "c"


def test_which_of_several_tiers_is_asked(two_tiers):
    with pytest.raises(UserError, match="in the tiers anna - words, anna - phones, bob - words") as error:
        load_corpus(two_tiers)
    assert "--text_column 'anna - words'; or if each is a speaker: --speaker_column tier" in str(error.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": "anna - phones"}, [("a.wav#0.000-1.000", "h", "")]),
        ({"text": "words"}, [("a.wav#0.000-1.000", "hello", "anna"), ("a.wav#0.000-1.000-2", "there", "bob")]),
        (
            {"text": "words", "speaker": "tier"},
            [("a.wav#0.000-1.000", "hello", "anna - words"), ("a.wav#0.000-1.000-2", "there", "bob - words")],
        ),
    ],
)
def test_a_tier_is_chosen(two_tiers, columns, expected):
    assert [(row["id"], row["text"], row["speaker"]) for row in load_corpus(two_tiers, columns=columns)] == expected


def test_every_tier_is_a_speaker(tmp_path, write):
    write("c/a.wav", 3.0)
    (tmp_path / "c/a.TextGrid").write_text(short(anna=[(0, 1, "hello")], bob=[(1, 2, "there")]))
    corpus = load_corpus(tmp_path / "c", columns={"speaker": "tier"})
    assert list(zip(corpus["speaker"], corpus["text"], strict=True)) == [("anna", "hello"), ("bob", "there")]


def test_tiers_of_different_names_are_warned_of(tmp_path, write, caplog):
    for name, tier in (("a", "utterances"), ("b", "phones")):
        write(f"c/{name}.wav", 3.0)
        (tmp_path / f"c/{name}.TextGrid").write_text(short(**{tier: [(0, 1, tier)]}))
    assert load_corpus(tmp_path / "c")["text"][:] == ["utterances", "phones"]
    assert "tiers of different names: utterances (1 row), phones (1 row)" in caplog.text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"ooBinaryFile\x08TextGrid", "a binary TextGrid; save it as a text file in Praat"),
        (LONG.encode("latin-1"), "neither UTF-8 nor UTF-16"),
        (LONG[: LONG.index("intervals [3]")].encode(), "it is cut or damaged"),
        (b'"ooTextFile"\n"Sound"\n', "not a TextGrid"),
        (short(words=[(0, 1, "a")]).encode(), "no tier 'utterances' with text: words"),
    ],
)
def test_files_that_cannot_be_read_are_dropped(tmp_path, write, content, why):
    write("c/a.wav", 3.0)
    write("c/b.wav", 3.0)
    write("c/c.wav", 3.0)
    (tmp_path / "c/a.TextGrid").write_text(LONG)
    (tmp_path / "c/b.TextGrid").write_bytes(content)
    report = CorpusReport()
    columns = {"text": "utterances"} if b"words" in content else None
    assert len(load_corpus(tmp_path / "c", name="c", report=report, columns=columns)) == 2
    assert [(row.id, row.reason) for row in report.dropped("c")] == [
        ("b.TextGrid", "unreadable"),
        ("c.wav", "no transcript"),
    ]
    assert why in report.dropped("c")[0].detail


def test_bad_times_and_intervals_past_the_end(tmp_path, write):
    write("c/a.wav", 3.0)
    (tmp_path / "c/a.TextGrid").write_text(short(u=[(-1, 1, "a"), (2, 1, "b"), (2, 5, "c"), (0, 3.05, "d")]))
    report = CorpusReport()
    (row,) = load_corpus(tmp_path / "c", name="c", report=report)
    assert (row["text"], row["start"], row["seconds"]) == ("d", 0.0, 3.0)
    assert [row.reason for row in report.dropped("c")] == ["bad segment"] * 3
