"""Fine-tuning on several corpora at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sharded_tones import shard

from sft_speech import UserError, finetune, load_corpus
from sft_speech.cli import main
from sft_speech.training import stream


@pytest.fixture(scope="session")
def second(tones, tmp_path_factory) -> Path:
    """Another corpus, whose ids and speakers are those of the first: train-tones of speaker 1, and dev-tones."""
    root = tmp_path_factory.mktemp("second") / "other"
    shutil.copytree(tones / "train-tones" / "1", root / "train-tones" / "1")
    shutil.copytree(tones / "dev-tones", root / "dev-tones")
    return root


def mix(arguments: list[str], *tables: dict) -> list[str]:
    """Return a command line with ``sources`` in place of one source."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--source", "--train_split", "--eval_split"):
            next(words)
        else:
            kept.append(word)
    return [*kept, "--sources", json.dumps(list(tables))]


@pytest.fixture
def mixed(arguments, tones, second) -> list[str]:
    """The command line of a run on two corpora, three quarters of it on the smaller one."""
    tables = [
        {"source": str(tones), "split": "train-tones", "weight": 1, "eval_split": "dev-tones"},
        {"source": str(second), "split": "train-tones", "weight": 3, "eval_split": "dev-tones"},
    ]
    return mix(arguments, *tables)


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "log_history.json").read_text())["log_history"]


def test_a_run_on_two_corpora(mixed, tmp_path, caplog):
    assert main([*mixed, "--augment", "--max_steps", "4", "--eval_steps", "2"]) == 0
    out = tmp_path / "out"
    shown = caplog.text
    assert "LibriSpeech                            48     0.01        1  25.00%" in shown
    assert "other                                  16     0.00        3  75.00%" in shown
    report = json.loads((out / "corpus_report.json").read_text())
    assert {name: report[name]["kept"]["rows"] for name in ("LibriSpeech", "other")} == {"LibriSpeech": 48, "other": 16}
    log = log_of(out)
    trained = [entry for entry in log if "loss" in entry]
    assert all(entry["loss_LibriSpeech"] > 0 or entry["loss_other"] > 0 for entry in trained)
    evaluated = [entry for entry in log if "eval_wer" in entry]
    for entry in evaluated:
        assert entry["eval_wer"] == pytest.approx((entry["eval_LibriSpeech_wer"] + entry["eval_other_wer"]) / 2)
    results = json.loads((out / "all_results.json").read_text())
    assert {"train_loss_LibriSpeech", "train_loss_other", "eval_LibriSpeech_wer", "eval_other_wer", "eval_wer"} <= {
        *results
    }
    assert {path.name for path in (out / "evaluation").glob("*.json")} == {"eval_LibriSpeech.json", "eval_other.json"}
    card = (out / "README.md").read_text()
    assert "LibriSpeech" in card
    assert "other" in card


def losses(folder: Path) -> list[tuple]:
    keys = ("loss", "grad_norm", "loss_LibriSpeech", "loss_other")
    return [tuple(entry.get(key) for key in keys) for entry in log_of(folder) if "loss" in entry]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_has_the_same_losses_and_weights(mixed, tmp_path, workers):
    keys = ["--max_steps", "12", "--eval_steps", "4", "--save_total_limit", "4", "--dataloader_num_workers", workers]
    command = [*mixed, *keys, "--augment", "--hidden_dropout", "0.1", "--gradient_accumulation_steps", "2"]
    assert main(command) == 0
    whole = losses(tmp_path / "out")
    assert len(whole) == 12
    for step in (4, 8):
        resumed = tmp_path / f"resumed-{step}"
        more = ["--resume_from_checkpoint", str(tmp_path / "out" / f"checkpoint-{step}"), "--output_dir", str(resumed)]
        assert main([*command, *more]) == 0
        assert losses(resumed) == whole
        weights = [(folder / "model.safetensors").read_bytes() for folder in (resumed, tmp_path / "out")]
        assert weights[0] == weights[1]


def test_a_single_source_is_the_run_that_it_was(arguments, tones, tmp_path):
    assert main([*arguments, "--augment"]) == 0
    table = {"source": str(tones), "split": "train-tones", "weight": 7}
    other = mix(arguments, table)
    assert main([*other, "--augment", "--eval_split", "dev-tones", "--output_dir", str(tmp_path / "one")]) == 0
    one, out = tmp_path / "one", tmp_path / "out"
    assert losses(one) == losses(out)
    assert (one / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert json.loads((one / "corpus_report.json").read_text()) == json.loads((out / "corpus_report.json").read_text())
    assert "LibriSpeech (train-tones)" in (one / "README.md").read_text()


def test_two_processes_train_on_a_mix_and_resume(mixed, tmp_path, two_processes):
    script = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
    command = [script, *mixed[1:], "--max_steps", "4", "--eval_steps", "2"]
    two_processes(*command)
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    found = losses(out)
    assert len(found) == 4
    assert all(one[2] or one[3] for one in found)
    more = ["--output_dir", str(resumed), "--resume_from_checkpoint", str(out / "checkpoint-2")]
    two_processes(*command, *more)
    assert losses(resumed) == found


def test_max_hours_is_a_subset_that_is_stated(arguments, tones, second, tmp_path, caplog):
    tables = [
        {"source": str(tones), "split": "train-tones", "max_hours": 0.005},
        {"source": str(second), "split": "train-tones"},
    ]
    assert main([*mix(arguments, *tables), "--max_steps", "1"]) == 0
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())
    assert report["LibriSpeech"]["kept"]["hours"] == pytest.approx(0.005, abs=1 / 3600)
    assert "a random subset of" in caplog.text
    assert "(a subset, max_hours 0.005)" in caplog.text


def test_utterances_of_any_source_that_are_evaluated_too_are_warned_of(arguments, tones, second, caplog):
    tables = [
        {"source": str(tones), "split": "train-tones"},
        {"source": str(second), "split": "train-tones+dev-tones", "eval_split": "dev-tones"},
    ]
    assert main([*mix(arguments, *tables), "--max_steps", "1"]) == 0
    assert "eval_other: 12 of its 12 utterances are trained on as well" in caplog.text


def test_bad_rows_name_their_source(arguments, tones, second, tmp_path, capsys):
    bad = tmp_path / "bad"
    shutil.copytree(second, bad)
    lines = next(bad.rglob("1-10.trans.txt"))
    words = lines.read_text().splitlines()
    lines.write_text("\n".join(["1-10-0000 " + "AH BEE SEA DO " * 40, *words[1:]]) + "\n")
    tables = [{"source": str(tones), "split": "train-tones"}, {"source": str(bad), "split": "train-tones"}]
    assert main([*mix(arguments, *tables), "--max_steps", "1"]) == 2
    shown = capsys.readouterr().err
    assert "corpus bad: 1 of 16 rows" in shown
    assert "bad/1-10-0000" in shown
    lines.write_text("".join(f"{line.split()[0]} {'AH BEE SEA DO ' * 40}\n" for line in words))
    assert main([*mix(arguments, *tables), "--max_steps", "1", "--max_dropped_share", "1"]) == 2
    assert "sources: bad: no row of it can be used" in capsys.readouterr().err


def test_an_empty_source_is_named(arguments, tones, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metadata.csv").write_text("file_name,text\n")
    tables = [{"source": str(tones), "split": "train-tones"}, {"source": str(tmp_path / "empty")}]
    assert main([*mix(arguments, *tables), "--max_steps", "1"]) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err


def test_a_vocabulary_is_built_from_all_sources(arguments, tones, second, tmp_path):
    other = tmp_path / "letters"
    shutil.copytree(second, other)
    for lines in other.rglob("*.trans.txt"):
        lines.write_text("".join(f"{line.split()[0]} XYLO\n" for line in lines.read_text().splitlines()))
    tables = [{"source": str(tones), "split": "train-tones"}, {"source": str(other), "split": "train-tones"}]
    assert main([*mix(arguments, *tables), "--max_steps", "1", "--new_vocabulary"]) == 0
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert set("abexylo") <= {token.lower() for token in vocabulary}


def test_check_reads_one_corpus_at_a_time(mixed, tmp_path, tones, capsys):
    assert main([*mixed, "--max_steps", "1"]) == 0
    assert main(["check", "--config", str(tmp_path / "out" / "run.yaml")]) == 2
    assert f"sft-speech check {tones} --split train-tones" in capsys.readouterr().err


def test_keep_splits_beside_a_mix(arguments, tones, second, tmp_path, caplog):
    tables = [{"source": str(tones), "split": "train-tones"}, {"source": str(second), "split": "train-tones"}]
    kept = json.dumps([{"source": str(second), "split": "dev-tones"}])
    assert main([*mix(arguments, *tables), "--max_steps", "1", "--keep_splits", kept]) == 0
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert "keep_other_dev-tones_wer" in results


@pytest.mark.parametrize("workers", ["0", "2"])
def test_streams_are_mixed_and_resumed(arguments, tones, tmp_path, workers, monkeypatch, caplog):
    monkeypatch.setattr(stream, "POOL_BATCHES", 2)
    sources = [shard(tones, tmp_path / "LibriSpeech", (20, 17, 11)), shard(tones, tmp_path / "other", (24, 24))]
    tables = [
        {"source": str(one), "split": "train", "weight": number} for number, one in zip((1, 3), sources, strict=True)
    ]
    keys = ["--streaming", "--max_steps", "12", "--eval_steps", "4", "--save_total_limit", "4", "--augment"]
    command = [*mix(arguments, *tables), *keys, "--dataloader_num_workers", workers, "--max_batch_seconds", "12"]
    assert main(command) == 0
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    whole = losses(out)
    assert len(whole) == 12
    assert main([*command, "--resume_from_checkpoint", str(out / "checkpoint-4"), "--output_dir", str(resumed)]) == 0
    assert losses(resumed) == whole
    assert "hours of each source in the run: " in caplog.text
    place = json.loads((out / "checkpoint-12" / "stream_0.json").read_text())["sources"]
    assert place["other"] / sum(place.values()) == pytest.approx(0.75, abs=0.1), "pools are shuffled"


def test_two_processes_share_a_mix_of_streams(arguments, tones, tmp_path, two_processes):
    sources = [shard(tones, tmp_path / "LibriSpeech", (20, 17, 11)), shard(tones, tmp_path / "other", (24, 24))]
    tables = [{"source": str(source), "split": "train", "weight": 1} for source in sources]
    script = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
    command = [script, *mix(arguments, *tables)[1:], "--streaming", "--save_total_limit", "3"]
    two_processes(*command)
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    two_processes(*command, "--output_dir", str(resumed), "--resume_from_checkpoint", str(out / "checkpoint-4"))
    assert losses(resumed) == losses(out)


PYTHON = {"max_steps": 4, "logging_steps": 1, "eval_steps": 2, "max_batch_seconds": 6.0, "dataloader_num_workers": 0}


def test_from_python_the_run_is_that_of_the_command_line(mixed, tones, second, small, tmp_path):
    assert main([*mixed, "--max_steps", "4", "--eval_steps", "2"]) == 0
    roots = {"LibriSpeech": tones, "other": second}
    train, held_out = (
        {name: load_corpus(root, split) for name, root in roots.items()} for split in ("train-tones", "dev-tones")
    )
    result = finetune(
        small,
        train=train,
        eval=held_out,
        sources=[{"source": "other", "weight": 3}, {"source": "LibriSpeech", "weight": 1}],
        output_dir=tmp_path / "python",
        learning_rate=1e-3,
        mask_time_length=2,
        report_to="none",
        **PYTHON,
    )
    assert losses(tmp_path / "python") == losses(tmp_path / "out")
    command = json.loads((tmp_path / "out" / "all_results.json").read_text())
    names = ["eval_wer", "eval_LibriSpeech_wer", "eval_other_wer", "train_loss_other"]
    assert [result.metrics[name] for name in names] == [command[name] for name in names]


def test_what_python_refuses(tones, small, tmp_path):
    rows = load_corpus(tones, "train-tones")
    given = {"output_dir": tmp_path / "out", "report_to": "none", **PYTHON}
    with pytest.raises(UserError, match=r"sources: othr: train has no corpus of this name.\n-> did you mean other"):
        finetune(small, train={"a": rows, "other": rows}, sources=[{"source": "a"}, {"source": "othr"}], **given)
    with pytest.raises(UserError, match="train: a: sources has no table for it"):
        finetune(small, train={"a": rows, "b": rows}, sources=[{"source": "b"}], **given)
    with pytest.raises(UserError, match="train: some are stored and others are streamed"):
        finetune(small, train={"a": rows, "b": rows.to_iterable_dataset()}, **given)
    with pytest.raises(UserError, match="eval: c: train has no corpus of this name"):
        finetune(small, train={"a": rows, "b": rows}, eval={"c": rows}, **given)
    with pytest.raises(UserError, match="dataset eval_b: it is a stream, and only what is trained on can be one"):
        finetune(small, train={"a": rows, "b": rows}, eval={"a": rows, "b": rows.to_iterable_dataset()}, **given)


def test_a_plain_mix_from_python_has_every_utterance_once(tones, second, small, tmp_path):
    train = {"a": load_corpus(tones, "train-tones"), "b": load_corpus(second, "train-tones")}
    given = PYTHON | {"max_steps": -1, "num_train_epochs": 1, "learning_rate": 1e-3}
    result = finetune(small, train=train, output_dir=tmp_path / "out", report_to="none", **given)
    hours = sum(sum(rows["seconds"]) for rows in train.values()) / 3600
    assert result.metrics["audio_hours"] == pytest.approx(hours)
