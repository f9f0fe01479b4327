"""The report on a corpus."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from sft_speech.corpora.report import CUT, OUTSIDE, TOO_LONG, CorpusReport, Dropped
from sft_speech.errors import UserError
from sft_speech.text.normalize import Normalized


@pytest.fixture
def report():
    report = CorpusReport()
    report.keep("train", 95, 3600)
    for number in range(4):
        report.drop("train", f"a{number}", "too short", "0.1 s")
    report.drop("train", "b", "truncated")
    report.missing_characters("train", Counter("éé"))
    report.missing_characters("train", Counter("é…"))
    report.keep("dev", 10, 36)
    return report


def test_table_lists_reasons_with_the_first_ids(report):
    lines = report.table().splitlines()
    assert lines[1].split() == ["train", "95", "1.00", "5", "5.00%"]
    assert lines[2].split() == "4 too short: a0 (0.1 s), a1 (0.1 s), a2 (0.1 s), and 1 more".split()
    assert lines[3].split() == "1 truncated: b".split()
    assert lines[4].endswith("'é' 3, '…' 1")
    assert lines[5].split() == ["dev", "10", "0.01", "0", "0.00%"]


def test_check_stops_above_the_share_with_the_table(report):
    report.check(0.05)
    with pytest.raises(UserError, match="5 of 100 rows") as caught:
        report.check(0.04)
    assert report.table() in str(caught.value)


def test_file_holds_every_row(report, tmp_path):
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["train"]["kept"] == {"rows": 95, "hours": 1.0}
    assert saved["train"]["dropped"] == {
        "rows": 5,
        "share": 0.05,
        "reasons": {
            "too short": [{"id": f"a{number}", "detail": "0.1 s"} for number in range(4)],
            "truncated": [{"id": "b", "detail": ""}],
        },
    }
    assert saved["train"]["missing_characters"] == {"é": 3, "…": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_last_keep_counts(report):
    report.keep("train", 90, 3000)
    assert report.to_dict()["train"]["kept"]["rows"] == 90
    assert report.dropped("train")[-1] == Dropped("b", "truncated")
    assert report.dropped("dev") == []


def test_what_is_taken_is_forgotten(report):
    dropped, missing = report.take("train")
    assert [row.id for row in dropped] == ["a0", "a1", "a2", "a3", "b"]
    assert missing == {"é": 3, "…": 1}
    assert report.take("train") == ([], Counter())
    assert "train" not in report.to_dict()
    assert report.to_dict()["dev"]["kept"]["rows"] == 10


def test_what_normalization_changed_is_listed_with_counts_and_the_first_row(caplog):
    report = CorpusReport()
    report.keep("train", 3, 10.0)
    report.note("train", "a", Normalized("x", folded=Counter("ööü"), marks=Counter(["<COMMA>"])))
    report.note("train", "b", Normalized("x", folded=Counter("ß"), unknown_marks=Counter(["[x]", "(once)"])))
    report.note("train", "c", Normalized("x", unknown_marks=Counter(["[x]"])))
    lines = [
        "letters that the vocabulary lacks are written without their marks: ö 2, ß 1, ü 1 (2 rows, the first is a)",
        "signs of transcription are removed: <COMMA> 1 (1 row, the first is a)",
        "brackets that no known convention explains are kept as words: [x] 2 (2 rows, the first is b)",
    ]
    assert report.note_lines("train") == lines
    assert report.table().splitlines()[-3:] == [f"  {line}" for line in lines]
    assert report.to_dict()["train"]["folded"]["ß"] == {"count": 1, "first": "b"}
    report.warn_of_notes()
    assert caplog.messages[0] == (
        f"train: {lines[0]}; train with `new_vocabulary: true` (SpeechT5: `new_characters: true`), "
        "or take a checkpoint that has them"
    )
    assert len(caplog.messages) == 3
    other = CorpusReport()
    other.add_notes("train", json.loads(json.dumps(report.notes("train"))))  # as checkpoints of a stream keep them
    assert other.notes("train") == report.notes("train")


def test_rows_that_the_vocabulary_cannot_spell_are_refused_with_advice_that_helps():
    report = CorpusReport()
    for number in range(9):
        report.drop("train", str(number), OUTSIDE, "9 of 9")
    report.missing_characters("train", Counter("привет"))
    with pytest.raises(UserError, match="the vocabulary lacks Cyrillic letters: train with `new_vocabulary: true`"):
        report.check(0.1)


def test_long_recordings_are_to_be_cut():
    report = CorpusReport()
    report.keep("train", 2, 9.0)
    for number in range(9):
        report.drop("train", str(number), TOO_LONG, "60.0 s")
    with pytest.raises(UserError, match=f"cut them at the ends of sentences: {CUT}"):
        report.check(0.1)
