"""The report of a run, out of files written by hand: what it shows, what it hides, how large it gets."""

from __future__ import annotations

import json
import re

import pytest
from parsed_page import Page
from reported_runs import Recordings, evaluation, finished_run, line, write

from sft_speech.errors import UserError
from sft_speech.report.evaluated import Columns, run_of
from sft_speech.report.page import page
from sft_speech.report.sections import BETTER, WORSE, WORST, interesting
from sft_speech.tasks import spec_of, task_of

HOSTILE = "<script>alert('1')</script>\u202e\"&"
BEFORE = [
    line("a", "one two", "one to"),
    line("b", "two two", "to to", "bob", 3.0),
    line("c", "six", "sex", "bob", 5.0),
]
AFTER = [line("a", "one two", "one two"), line("b", "two two", "to too", "bob", 3.0), line("c", "six", "", "bob", 5.0)]


def table(text: str, name: str) -> list[list[str]]:
    """Return the cells of a table of the page as text."""
    found = re.search(f'aria-label="{name}">(.*?)</table>', text, re.DOTALL)
    assert found
    rows = re.findall("<tr>(.*?)</tr>", found[1], re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def test_everything_is_on_the_page(tmp_path):
    folder = finished_run(tmp_path / "mine", BEFORE, AFTER, learning_rate=0.125)
    recordings = Recordings("abc", tmp_path)
    text = page(run_of(folder, task_of), lambda role: recordings)
    parsed = Page(text)
    assert "test: WER 80.00 % → 60.00 % (difference -20.00, paired 95 % interval" in parsed.words
    assert table(text, "Figures")[1] == ["test", "3", "0.50", "80.00 → 60.00 (50.00 to 70.00)"]
    assert "WER %, before training: 80" in parsed.words  # the point before training, in the curve
    assert [one["class"] for one in parsed.all("circle")].count("ring line-0") == 1
    described = " ".join(one["aria-label"] for one in parsed.all("svg"))
    assert "WER by speaker: bob (2) before 100 %, after 100 %; anna (1) before 50 %, after 0 %" in described
    assert "WER by length: 1 to " in described
    assert table(text, "Words") == [
        ["word", "occurs", "wrong before", "wrong after"],
        ["two", "3", "3", "2"],
        ["six", "1", "1", "1"],
    ]
    assert table(text, "Confusions") == [["reference", "hypothesis", "before", "after"], ["two", "to", "3", "1"]]
    assert len(parsed.all("audio")) == 3
    assert "<ins><bdi>to too</bdi></ins>" in text
    assert table(text, "Rows kept and dropped")[1] == ["train", "silent 12", "100", "1.00", "12"]
    assert "quiet-9 (0.1 s)" in parsed.words
    assert "quiet-10" not in parsed.words
    assert "and 2 more" in parsed.words
    assert "\nlearning_rate: 0.125\n" in parsed.words


def test_nothing_in_names_and_transcripts_is_markup_or_loaded(tmp_path):
    lines = [line(f"{HOSTILE}{n}", f"{HOSTILE} x", f"y {HOSTILE}", f"{HOSTILE} {n}", n + 1.0) for n in range(3)]
    folder = finished_run(tmp_path / "mine", lines, lines)
    recordings = Recordings([one["id"] for one in lines], tmp_path)
    text = page(run_of(folder, task_of), lambda role: recordings)
    parsed = Page(text)
    assert parsed.open == []
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object"}
    named = [(name, value) for _, attributes in parsed.tags for name, value in attributes.items()]
    assert not [name for name, _ in named if name.startswith("on") or name == "style"]
    assert all(value.startswith(("data:", "#")) for name, value in named if name in ("src", "href"))
    assert "\u202e" not in text
    assert not re.search(r"@import|url\(", text)


def test_many_errors_make_no_large_page(tmp_path):
    lines = [line(f"{n:03}", "one two", f"word{n} two") for n in range(150)]
    folder = finished_run(tmp_path / "mine", lines, lines)
    recordings = Recordings([one["id"] for one in lines], tmp_path, seconds=12)
    text = page(run_of(folder, task_of), lambda role: recordings)
    assert len(Page(text).all("audio")) <= 20
    assert "100 other utterances" in text
    assert text.count("<article") == 20
    assert "30 more are in the .jsonl files" in text
    assert len(text) < 8_000_000


def test_utterances_are_chosen_by_change_and_by_error():
    spec = spec_of("asr")
    before = {one["id"]: one for one in [line("a", "x y", "x y"), line("b", "x y", "z z"), line("c", "x y", "z z")]}
    after = {one["id"]: one for one in [line("a", "x y", "x z"), line("b", "x y", "z z"), line("c", "x y", "x y")]}
    columns = Columns([before, after], spec.metrics)
    assert interesting(columns, 20) == [(WORSE, [0]), (WORST, [1]), (BETTER, [2])]
    assert interesting(columns, 1) == [(WORSE, [0])]
    repeated = [line("a", "x", "y"), line("b", "x", "y"), line("c", "x", "z")]
    (group,) = interesting(Columns([{one["id"]: one for one in repeated}], spec.metrics), 2)
    assert group == (WORST, [0, 2])  # another mistake, not the same one again


def test_a_run_without_its_recordings_has_no_players(tmp_path):
    folder = finished_run(tmp_path / "mine", BEFORE, AFTER)
    parsed = Page(page(run_of(folder, task_of), lambda role: None))
    assert parsed.all("audio") == []
    assert "Worse than before" not in parsed.words
    assert "Most errors" in parsed.words


def test_an_unfinished_run(tmp_path):
    folder = finished_run(tmp_path / "mine", BEFORE, AFTER)
    checkpoint = folder / "checkpoint-5"
    checkpoint.mkdir()
    (folder / "config.json").rename(checkpoint / "config.json")
    for name in ("all_results.json", "log_history.json", "evaluation/test.json", "evaluation/test.jsonl"):
        (folder / name).unlink()
    write(checkpoint / "files.json", {})
    write(checkpoint / "trainer_state.json", {"log_history": [{"step": n, "loss": 2.0} for n in (1, 5)]})
    parsed = Page(page(run_of(folder, task_of), lambda role: None))
    assert "unfinished after 5 steps" in parsed.words
    assert "test: WER 80.00 % before training" in parsed.words
    assert any("Loss" in one["aria-label"] for one in parsed.all("svg"))


def test_classes_are_confused(tmp_path):
    pairs = [("yes", "no"), ("yes", "no"), ("no", "no")]
    lines = [
        {"id": f"{n}", "expected": one, "predicted": other, "seconds": 1.0 + n, "loss": 1.0, "speaker": f"s{n}"}
        for n, (one, other) in enumerate(pairs)
    ]
    columns = Columns([{one["id"]: one for one in lines}], spec_of("classification").metrics)
    assert columns.metric is not None
    assert columns.metric.name == "accuracy"
    assert columns.repeated() == [(("yes", "no"), [2])]
    assert [part.label for part in columns.by_speaker()] == ["s0", "s1", "s2"]
    assert interesting(columns, 5) == [(WORST, [0, 1])]


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="it is not the directory of a run"):
        run_of(tmp_path, task_of)
    with pytest.raises(UserError, match="there is no such directory"):
        run_of(tmp_path / "none", task_of)


def test_other_utterances_before_training_are_not_compared(tmp_path):
    """A resumed run may have other splits."""
    folder = finished_run(tmp_path / "mine", BEFORE, AFTER)
    evaluation(folder / "evaluation" / "before", BEFORE[:2])
    text = page(run_of(folder, task_of), lambda role: None)
    assert table(text, "Words")[0] == ["word", "occurs", "wrong after"]
    results = json.loads((folder / "all_results.json").read_text())
    write(folder / "all_results.json", {key: value for key, value in results.items() if "before" not in key})
    assert "test: WER 60.00 %" in Page(page(run_of(folder, task_of), lambda role: None)).words
