"""What of a finished run is uploaded, and what stays."""

from __future__ import annotations

import json

import pytest
import yaml
from run_with_card import card, figures, write

from sft_speech.errors import UserError
from sft_speech.hub.files import at_home, check_finished, uploads
from sft_speech.tasks import task_of


def test_what_goes_up_and_what_stays(folder):
    card(folder)
    (folder / "evaluation" / "test.jsonl").write_text(json.dumps({"reference": "THE SECRET"}))
    (folder / "samples").mkdir()
    (folder / "samples" / "001.wav").write_bytes(b"RIFF")
    (folder / "notes.txt").write_text("mine")
    (folder / "LICENSE").write_text("CC")
    going = uploads(folder, task_of(folder))
    assert [file.path for file in going] == [
        *("LICENSE", "README.md", "all_results.json", "config.json"),
        *(f"evaluation/{split}.json" for split in ("dev", "eval", "test")),
        "log_history.json",
        *(f"plots/{name}.png" for name in ("evaluation", "gradient", "learning_rate", "loss")),
        "run.yaml",
    ]
    stays = {name: why for name, _, why in at_home(folder, going)}
    assert set(stays) == {"corpus_report.json", "evaluation/test.jsonl", "notes.txt", "provenance.json", "samples"}
    assert stays["evaluation/test.jsonl"] == "transcripts"
    told = b"\n".join(file.content() for file in going)
    for secret in (str(folder.parent).encode(), b"secret-id", b"THE SECRET"):
        assert secret not in told, secret
    run = yaml.safe_load(next(file.content() for file in going if file.path == "run.yaml"))
    assert (run["output_dir"], run["source"]) == ("out", "org/trained_on")
    assert json.loads(next(file.content() for file in going if file.path == "evaluation/test.json"))["failed"] == 1


def test_only_evaluations_of_the_run_go_up_unless_asked(folder):
    """Of the same split of another corpus, of another split, of the run's own split once more."""
    write(folder / "evaluation" / "test.json", figures(0.4, source="/disk/client/corpus"))
    write(folder / "evaluation" / "client.json", figures(0.5))
    write(folder / "evaluation" / "dev.json", figures(0.15, source="org/judged_by"))

    def evaluations(going):
        return [file.path for file in going if file.path.startswith("evaluation/")]

    head, body = card(folder)
    going = uploads(folder, task_of(folder))
    assert evaluations(going) == ["evaluation/dev.json", "evaluation/eval.json"]
    assert [one["dataset"]["split"] for one in head["model-index"][0]["results"]] == ["dev", "eval"]
    assert "| 15.00 (" in body
    assert "| 40.00 (" not in body
    why = "not an evaluation of this run; --with_evaluations uploads it"
    stays = {name: reason for name, _, reason in at_home(folder, going)}
    assert (stays["evaluation/test.json"], stays["evaluation/client.json"]) == (why, why)

    everything = uploads(folder, task_of(folder), with_evaluations=True)
    assert evaluations(everything) == [f"evaluation/{split}.json" for split in ("client", "dev", "eval", "test")]
    assert b"/disk/client" not in b"".join(file.content() for file in everything)
    assert "| test | corpus |" in card(folder, all_evaluations=True)[1]


def test_what_is_no_finished_model(folder, tmp_path):
    with pytest.raises(UserError, match="there is no such directory"):
        check_finished(tmp_path / "none")
    with pytest.raises(UserError, match=r"it holds no model of a run \(no config.json"):
        check_finished(tmp_path)
    with pytest.raises(UserError, match="its weights are incomplete"):
        check_finished(folder)
    (folder / "checkpoint-4").mkdir()
    (folder / "all_results.json").unlink()
    with pytest.raises(UserError, match=r"its run is not finished.*\n.*resume_from_checkpoint"):
        check_finished(folder)
