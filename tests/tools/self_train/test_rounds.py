"""Rounds with real labels of tiny recognizers, and students that are copies of one, with figures made of numbers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from comparisons import recognized, write_lines

from sft_speech.cli import main
from sft_speech.errors import RESUMABLE, Stopped
from sft_speech.tools.compare import processes
from sft_speech.tools.compare.processes import Ending, Job

RATE = 16_000
OPEN = {"chars_per_second": [0, 1000]}  # the recognizers are random


class Runner:
    """Labels in this process; a student is a copy of a model, with so many errors in each of 8 utterances.

    Args:
        errors: by round.
        stop_after: a signal arrives after so many processes.
    """

    def __init__(self, model: Path, errors: list[int]) -> None:
        self.model, self.errors, self.stop_after = model, errors, 10**6
        self.done: list[str] = []
        self.jobs: list[Any] = []

    def __call__(self, jobs, done) -> None:
        for job in jobs:
            if len(self.done) == self.stop_after:
                raise Stopped
            code = self.train(job) if isinstance(job, Job) else main(job.command()[3:])
            self.done.append(job.name)
            self.jobs.append(job)
            done(job, Ending(code, "it failed" if code else "", 1.0))

    def train(self, job: Job) -> int:
        folder = Path(job.config.output_dir)
        number = int(folder.parent.name)
        shutil.copytree(self.model, folder)
        (folder / "checkpoint-2").mkdir()
        figures = {f"{role}_wer": self.errors[number] / 10 for role in ("eval", "test")}
        for split in ("dev", "test"):
            write_lines(folder / "evaluation", split, recognized([self.errors[number]] * 8))
        (folder / "all_results.json").write_text(json.dumps(figures))
        return 0


@pytest.fixture
def model(tiny_directory) -> Path:
    return tiny_directory("wav2vec2-group")


@pytest.fixture
def case(model, tmp_path, monkeypatch):
    """A YAML of self-training on 12 unlabelled clips of 0.3 to 0.5 s; `begin(errors, **table)` runs it."""
    rng, rows = np.random.default_rng(3), []
    for number in range(18):
        file = tmp_path / ("clips" if number < 12 else "labelled") / f"{number:02}.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, rng.normal(0, 0.1, 4800 + 300 * (number % 12)), RATE)
        split = {12: "dev", 13: "test"}.get(number, "train")
        rows.append({"audio": str(file), "sentence": "a b", "who": "anna", "split": split})
    for name, part in (("labelled", rows[12:]), ("known", rows[:12])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    base = {
        "model": str(model),
        "source": str(tmp_path / "labelled.jsonl"),
        "text_column": "sentence",
        "speaker_column": "who",
        "train_split": "train",
        "eval_split": "dev",
        "test_splits": ["test"],
        "output_dir": str(tmp_path / "out"),
    }
    table = {"unlabelled": str(tmp_path / "clips"), "device": "cpu", **OPEN}

    def begin(errors: list[int], stop_after: int = 10**6, **more: Any) -> tuple[int, Runner]:
        file, runner = tmp_path / "my.yaml", Runner(model, errors)
        options = {key: more.pop(key) for key in list(more) if key in ("sources", "eval_source", "source", "model")}
        file.write_text(yaml.safe_dump({**base, **options, "self_train": table | more}))
        runner.stop_after = stop_after
        monkeypatch.setattr(processes, "Processes", lambda *_: runner)
        return main(["self-train", "--config", str(file)]), runner

    return begin


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def named(*rounds: int) -> list[str]:
    """The processes of rounds, in their order."""
    return [f"round {n}: {what}" for n in rounds for what in (["labels of clips"] if n else []) + ["student"]]


def test_it_stops_when_a_round_is_no_better_and_repeats_nothing(case, tmp_path, capsys):
    out = tmp_path / "out"
    code, runner = case([5, 3, 4, 2], rounds=5)
    assert (code, runner.done) == (0, named(0, 1, 2))
    printed = capsys.readouterr().out
    assert "Take the student of round 1: WER 30.0 %" in printed
    assert "It is better than the student of the labels alone, which has WER 50.0 %" in printed
    assert "difference of −20.0 points" in printed
    assert "- Round 2 got no better than round 1." in printed
    assert "On splits that did not decide: test 30.0 %" in printed
    assert (out / "student").resolve() == out / "rounds/1/student"
    assert not list(out.glob("rounds/*/student/checkpoint-*"))
    assert (out / "self_train.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "self_train.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["eval_wer"] for row in rows] == ["0.5", "0.3", "0.4"]
    assert [float(row["difference"] or 0) for row in rows] == pytest.approx([0, -0.2, 0.1])
    assert [row["teacher"] for row in rows] == ["", *(str(out / f"rounds/{n}/student") for n in (0, 1))]
    assert float(rows[2]["labels_changed"]) == 0  # the students are copies
    assert "| 1 (best) | round 0 | 12 of 12 |" in (out / "self_train.md").read_text()

    again = case([5, 3, 4, 2], rounds=5)
    assert (again[0], again[1].done) == (0, [])
    more = case([5, 3, 4, 2], rounds=3, patience=2)
    assert (more[0], more[1].done) == (0, named(3))
    assert (out / "student").resolve() == out / "rounds/3/student"
    assert "the same command with more `rounds` goes on" in capsys.readouterr().out


def test_a_stopped_one_continues_where_it_was(case, tmp_path):
    done = []
    for stop_after in (0, 1, 1, 1, 9):
        code, runner = case([5, 4, 3], rounds=2, stop_after=stop_after)
        done += runner.done
    assert (code, done) == (0, named(0, 1, 2))
    assert case([5, 4, 3], rounds=2, stop_after=0)[0] == 0
    assert case([5, 4, 3, 2], rounds=3, stop_after=0)[0] == RESUMABLE


def test_what_students_learn(case, tmp_path):
    """Filters, weights and shares; columns as in the labelled corpus, and transcripts that were not used."""
    known = {"source": str(tmp_path / "known.jsonl"), "text_column": "sentence", "speaker_column": "who"}
    first = {"rounds": 1, "unlabelled": [known], "ignore_text": True, "weight": "confidence"}
    _, runner = case([5, 4], **first, keep_share=0.5, labelled_share=0.25, student={"augment": True})
    rejected = rows_of(tmp_path / "out/rounds/1/labels/known.rejected.jsonl")
    rows = rows_of(tmp_path / "out/rounds/1/pseudo.jsonl")
    assert (len(rows), len(rejected)) == (6, 6)
    assert min(row["confidence"] for row in rows) >= max(row["confidence"] for row in rejected)
    assert all(row["weight"] == row["confidence"] and row["sentence"] and row["who"] == "anna" for row in rows)
    teacher, student = (job.config for job in runner.jobs if isinstance(job, Job))
    labelled = str(tmp_path / "labelled.jsonl")
    assert (teacher.source, teacher.train_split, teacher.augment) == (labelled, "train", False)
    assert (student.source, student.eval_source, student.eval_split, student.augment) == ("", labelled, "dev", True)
    assert student.sources == [
        {"source": labelled, "split": "train", "weight": 0.25},
        {"source": str(tmp_path / "out/rounds/1/pseudo.jsonl"), "weight": 0.75},
    ]
    (state,) = [one for one in json.loads((tmp_path / "out/self_train.json").read_text())["table"] if one["round"] == 1]
    assert (state["labels_kept"], state["labels_left_out"]) == (6, {"not among the most confident": 6})
    assert state["labels_wer"] >= 1 > 0  # of random labels against "a b"
    assert "| 1 | 6 | not among the most confident |" in (tmp_path / "out/self_train.md").read_text()


def test_all_labels_left_out(case, tmp_path, capsys):
    code, runner = case([5, 4], min_confidence=1)
    assert (code, runner.done) == (0, named(0, 1)[:2])
    assert "- In round 1 none of the 12 labels passes the filters (low confidence: 12)." in capsys.readouterr().out
    assert case([5, 4], min_confidence=1)[1].done == []


def test_a_given_teacher_makes_round_0_unnecessary(case, tiny_seq2seq, tmp_path, capsys):
    """It is a Whisper, and its students are not."""
    whisper = tiny_seq2seq("whisper-en")
    code, runner = case([9, 4, 5], teacher=str(whisper), second_teacher=str(whisper), max_wer=5)
    assert (code, runner.done) == (0, named(1, 2))
    labels = [tmp_path / f"out/rounds/{n}/labels/clips.labels" for n in (1, 2)]
    assert [json.loads((one / "run.json").read_text())["teacher 1"]["model"] for one in labels] == [
        str(whisper),
        str(tmp_path / "out/rounds/1/student"),
    ]
    assert labels[0].joinpath("second_teacher.jsonl").samefile(labels[1] / "second_teacher.jsonl"), "written twice"
    assert "Further rounds did not help: round 2 has WER 50.0 %" in capsys.readouterr().out
    table = json.loads((tmp_path / "out/self_train.json").read_text())["table"]
    assert table[1]["labels_changed"] > 0


def test_a_kept_teacher_labels_once(case, model, tmp_path):
    code, runner = case([9, 4, 3], teacher=str(model), keep_teacher=True, continue_student=True, rounds=2)
    assert (code, runner.done) == (0, ["round 1: labels of clips", "round 1: student", "round 2: student"])
    first, second = (job.config for job in runner.jobs if isinstance(job, Job))
    assert (first.model, second.model) == (str(model), str(tmp_path / "out/rounds/1/student"))
    assert first.sources == second.sources


def test_several_corpora(case, tmp_path, caplog):
    """A split of the labelled corpus is one; its utterances must not be those that decide."""
    tables = [str(tmp_path / "clips"), {"split": "dev"}]
    code, _ = case([5, 4], unlabelled=tables, ignore_text=True, rounds=1)
    assert code == 0
    ids = [row["id"] for row in rows_of(tmp_path / "out/rounds/1/pseudo.jsonl")]
    assert (len(ids), ids[0]) == (13, "clips/00.wav")
    assert ids[-1].startswith("labelled_dev/")
    assert "dev: 1 of its 1 utterances are labelled and trained on" in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"unlabelled": []}, "self_train without unlabelled: there is nothing to label"),
        ({"unlabelled": "EMPTY"}, "EMPTY: "),
        ({"unlabelled": "known.jsonl"}, "ignore_text: true"),
        ({"teacher": "/none"}, "/none: there is no such directory"),
        ({"second_teacher": "/none"}, "/none: there is no such directory"),
        ({"min_confidenc": 1}, "self_train: min_confidenc: there is no such option.\n-> did you mean min_confidence?"),
        ({"split": "x"}, "self_train: split: there is no such option"),
        ({"min_confidence": 2}, "a confidence is from 0 to 1"),
        ({"weight": 0}, "it is a factor on the loss"),
        ({"rounds": 0}, "rounds: 0: it is out of range"),
        ({"keep_teacher": True}, "every round would be the same"),
        ({"student": {"eval_split": "x"}}, "self_train: student: eval_split: it is the same for all rounds"),
        ({"student": {"trust_remote_code": True}}, "self_train: student: trust_remote_code: it is the same for all"),
        ({"allow_pickle": True}, "self_train: allow_pickle: there is no such option"),
        ({"student": {"max_step": 1}}, "unknown key 'max_step'"),
        (
            {"min_confidence": 1, "teacher": "MODEL"},
            "round 1: none of the 12 labels passes the filters (low confidence: 12)",
        ),
    ],
)
def test_errors(case, model, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    more = {key: str(model) if value == "MODEL" else value for key, value in more.items()}
    if "unlabelled" in more and "known" in more["unlabelled"]:
        more["unlabelled"] = [{"source": "known.jsonl", "text_column": "sentence", "speaker_column": "who"}]
    code, runner = case([5], **more)
    error = capsys.readouterr().err
    assert (code, message in error) == (2, True), error
    assert "student" not in " ".join(runner.done)


def test_options_that_contradict_the_rounds(case, tmp_path, capsys):
    assert case([5], rounds=1, stop_after=1)[0] == RESUMABLE
    capsys.readouterr()
    assert case([5], rounds=1, min_confidence=0.5)[0] == 2
    assert "its rounds were done with other options (labelling: " in capsys.readouterr().err
    file = tmp_path / "my.yaml"
    for flags, message in {
        ("--eval_split", "null"): "no eval_split: nothing would decide",
        ("--push_to_hub", "true"): "self-training uploads nothing",
        ("--self_train", "[1]"): "self_train: [1]: it must be a table",
        ("--model", "/none"): "/none: there is no such directory",
    }.items():
        assert main(["self-train", "--config", str(file), *flags]) == 2
        assert message in capsys.readouterr().err
    many = [{"source": "a"}, {"source": "b"}]
    given = {"source": "", "train_split": None, "eval_source": "c", "sources": many}
    assert case([5], **{key: given[key] for key in ("source", "eval_source", "sources")}, labelled_share=0.5)[0] == 2
