"""The verb: the page of a run is written again, several are put side by side, and what is no run is refused."""

from __future__ import annotations

import re

import pytest
from parsed_page import Page
from reported_runs import finished_run, line, write

from sft_speech.cli import main

LINES = [line("a", "one two", "one to"), line("b", "two two", "to to", "bob", 3.0)]
BETTER = [line("a", "one two", "one two"), line("b", "two two", "to two", "bob", 3.0)]


def test_the_report_of_a_run_is_written_again(tmp_path, capsys, caplog):
    folder = finished_run(tmp_path / "mine", LINES, BETTER)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert "WER 75.00 % → 25.00 %" in Page((folder / "report.html").read_text()).words
    (message,) = [one for one in caplog.messages if "no players" in one]  # its corpus is gone
    assert str(folder / "corpus") in message


def test_runs_side_by_side(tmp_path):
    folders = [
        finished_run(tmp_path / name, LINES, lines, learning_rate=rate, source=str(tmp_path / "corpus"))
        for name, lines, rate in (("slow", LINES, 0.25), ("fast", BETTER, 0.5))
    ]
    assert main(["report", *map(str, folders), "-o", str(tmp_path / "runs.html")]) == 0
    text = (tmp_path / "runs.html").read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert "test: fast has the best WER, 25 %" in parsed.words
    rows = re.findall("<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]
    assert ["learning_rate", "0.25", "0.5"] in cells
    assert not any(row[0] in ("source", "model") for row in cells if row)
    assert ["fast", "25.00", "the best", ""] in cells
    (slow,) = [row for row in cells if row[:2] == ["slow", "75.00"]]
    assert slow[2] == "+50.00"
    assert "Where they differ most" in parsed.words
    labels = [one["aria-label"] for one in parsed.all("svg")]
    assert any(
        one.startswith("WER % on the evaluation split: slow from 75 to 75, fast from 75 to 25") for one in labels
    )


@pytest.mark.parametrize(
    ("metrics", "told"),
    [(("cer", "cer"), "best CER, 7.143 %"), (("cer", None), "best WER, 25 %"), (("loss", "loss"), "best WER, 25 %")],
)
def test_the_metric_that_selects_comes_first(tmp_path, metrics, told):
    folders = [
        finished_run(tmp_path / name, LINES, lines, metric_for_best_model=metric)
        for name, lines, metric in zip("ab", (LINES, BETTER), metrics, strict=True)
    ]
    assert main(["report", *map(str, folders), "-o", str(tmp_path / "runs.html")]) == 0
    assert f"test: b has the {told}" in Page((tmp_path / "runs.html").read_text()).words


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    first, second = (str(finished_run(tmp_path / name, LINES, LINES)) for name in "ab")
    assert main(["report", first, second]) == 2
    assert "sft-speech report" in capsys.readouterr().err
    assert main(["report", first, str(tmp_path), "-o", str(tmp_path / "runs.html")]) == 2
    assert f"{tmp_path}: it is not the directory of a run" in capsys.readouterr().err
    write(tmp_path / "b" / "config.json", {"architectures": ["Wav2Vec2ForSequenceClassification"]})
    (tmp_path / "b" / "run.yaml").write_text("model: org/model\nsource: x\noutput_dir: y\n")
    assert main(["report", first, second, "-o", str(tmp_path / "runs.html")]) == 2
    assert "they are of different tasks (asr, classification)" in capsys.readouterr().err
    assert not (tmp_path / "runs.html").exists()


@pytest.mark.parametrize("place", ["none/runs.html", "."])
def test_a_place_that_cannot_be_written(tmp_path, capsys, place):
    folder = finished_run(tmp_path / "mine", LINES, LINES)
    assert main(["report", str(folder), "-o", str(tmp_path / place)]) == 2
    assert "it must be a file in a folder that exists" in capsys.readouterr().err
