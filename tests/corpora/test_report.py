"""The report on a corpus."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.errors import UserError


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
