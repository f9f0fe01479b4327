"""The real command on a corpus with planted faults, on the same corpus without them, and on real speech."""

from __future__ import annotations

import csv
import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.tools.check.findings import Report

RATE = 16_000
MODEL = str(files("sft_speech").joinpath("assets/wav2vec2-small"))


def check(tmp_path: Path, *arguments: object) -> dict:
    """Run the command and return its JSON."""
    assert main(["check", *map(str, arguments), "--json", str(tmp_path / "check.json")]) == 0
    return json.loads((tmp_path / "check.json").read_text("utf-8"))


def cases(report: dict) -> dict[str, list[str]]:
    """Return the ids of the cases by the key of the finding."""
    return {found["key"]: [case["id"] for case in found["cases"]] for found in report["findings"]}


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory) -> dict:
    return check(tmp_path_factory.mktemp("found"), planted.folder, "--model", MODEL)


def test_every_planted_fault_is_found_and_nothing_else(found, planted):
    found_cases = cases(found)
    disputed = found_cases.pop("disputed_transcript")
    wanted = {key: sorted(ids) for key, ids in planted.faults.items()}
    # Other findings that these faults cause.
    wanted["quiet"] = ["faint"]
    wanted["pace"] = sorted({"half", "letter", "dense", "null"})
    wanted["digits_and_symbols"] = sorted({"digits", "clip-name-7", "damaged"})
    wanted["dropped_characters_outside_the_vocabulary"] = ["cyrillic"]
    whole = {"repeated_text", "rare_characters", "low_rate", "too_much_dropped"}
    assert {key: sorted(ids) for key, ids in found_cases.items() if key not in whole} == wanted
    assert all(found_cases[key] == [] for key in whole)
    assert set(disputed) <= planted.faulty | planted.swapped


def test_swapped_transcripts_are_disputed(found, planted):
    disputed = cases(found)["disputed_transcript"]
    assert planted.swapped <= set(disputed)
    assert {"half", "letter", "null", "copy-other-text"} <= set(disputed)


def test_the_same_corpus_without_faults_has_no_findings(clean, tmp_path):
    report = check(tmp_path, clean, "--model", MODEL)
    assert [found["key"] for found in report["findings"]] == ["rare_characters"]
    assert report["verdict"] == {"problem": 0, "warning": 0, "note": 1}


def test_figures(clean, tmp_path):
    report = check(tmp_path, clean)
    lengths = {
        split: [soundfile.info(path).duration for path in (clean / split).glob("*.wav")] for split in ("train", "test")
    }
    assert list(report["splits"]) == ["test", "train"]
    assert report["splits"]["train"] == {
        "role": "train",
        "utterances": 60,
        "hours": pytest.approx(sum(lengths["train"]) / 3600),
        "kept": 60,
        "kept_hours": pytest.approx(sum(lengths["train"]) / 3600),
        "speakers": 3,
    }
    assert report["splits"]["test"]["role"] == "evaluation"
    assert report["durations"]["max"] == pytest.approx(max(lengths["train"] + lengths["test"]))
    assert report["speakers"]["count"] == 5
    assert report["audio"]["rates"] == {"16000": 80}
    assert report["audio"]["channels"] == {"1": 80}
    assert report["audio"]["kinds"] == {"WAV PCM_16": 80}
    assert report["audio"]["share"] == 1
    with open(clean / "train" / "metadata.csv") as one, open(clean / "test" / "metadata.csv") as other:
        texts = [row["text"] for file in (one, other) for row in csv.DictReader(file)]
    assert report["text"]["words"] == sum(len(text.split()) for text in texts)
    assert report["text"]["character_counts"]["e"] == "".join(texts).count("e")
    assert "model" not in report


def test_a_run_drops_exactly_what_the_report_says(planted, tmp_path):
    out = tmp_path / "out"
    settings = {
        "model": MODEL,
        "source": str(planted.folder),
        "train_split": "train",
        "eval_split": "test",
        "max_seconds": 2.5,
        "max_dropped_share": 1.0,
    }
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    report = check(tmp_path, "--config", config, "--max_hours", 0)
    run = ["finetune-asr", "--config", str(config), "--output_dir", str(out), "--max_steps", "1", "--report_to", "none"]
    assert main([*run, "--max_batch_seconds", "5", "--dataloader_num_workers", "0"]) == 0
    assert report["training"] == json.loads((out / "corpus_report.json").read_text())
    assert {"too long", "missing file", "more labels than frames"} <= report["training"]["train"]["dropped"][
        "reasons"
    ].keys()
    assert report["splits"].keys() == {"train", "eval"}
    assert "audio" not in report  # nothing was decoded


def test_limits_are_those_of_the_options(clean, tmp_path):
    report = check(tmp_path, clean, "--split", "train", "--max_seconds", 2, "--max_hours", 0)
    seconds = np.array([soundfile.info(path).duration for path in (clean / "train").glob("*.wav")])
    assert len(cases(report)["dropped_too_long"]) == (seconds > 2).sum() > 0
    assert report["splits"]["train"]["kept"] == (seconds <= 2).sum()
    (stops,) = [found for found in report["findings"] if found["key"] == "too_much_dropped"]
    assert stops["severity"] == "problem"


def test_a_sample_of_a_large_corpus_says_so(clean, tmp_path, capsys):
    report = check(tmp_path, clean, "--max_hours", 0.01)
    assert report["audio"]["hours"] == pytest.approx(0.01, rel=0.2)
    assert report["audio"]["share"] < 0.5
    assert ", a sample of " in capsys.readouterr().out
    assert check(tmp_path, clean, "--max_hours", 0.01) == report


def test_a_split_without_one_usable_file_is_a_finding(clean, tmp_path):
    folder = tmp_path / "corpus"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        (folder / split / "metadata.csv").write_text("file_name,text\na.wav,hello there\n")
    soundfile.write(folder / "test" / "a.wav", np.full(RATE, 0.1), RATE)
    report = check(tmp_path, folder)
    assert cases(report)["dropped_missing_file"] == ["a.wav"]
    assert report["splits"]["train"]["kept"] == 0
    (folder / "test" / "a.wav").unlink()
    assert check(tmp_path, folder)["splits"]["test"]["utterances"] == 1


def test_exit_codes(planted, clean, tmp_path, capsys):
    quick = ["--max_hours", "0"]
    assert main(["check", str(planted.folder), *quick]) == 0
    assert main(["check", str(planted.folder), *quick, "--strict"]) == 1
    assert main(["check", str(clean), *quick, "--strict"]) == 0
    capsys.readouterr()
    for arguments, why in (
        ([], "there is nothing to check"),
        ([str(tmp_path / "nowhere")], "no such file or folder"),
        ([str(clean), "--split", "dev"], "there is no split 'dev'"),
        ([str(clean), "--config", "x.yaml", "--split", "test"], "the configuration names the splits"),
        ([str(clean), "--html", str(tmp_path / "no" / "page.html")], "a file in a folder that exists"),
        ([str(clean), "--max_hours", "nan"], "it must be 0 or more"),
        ([str(clean), "--max_hours", "-1"], "it must be 0 or more"),
        ([str(clean), "--min_seconds", "9", "--max_seconds", "2"], "no utterance is left"),
    ):
        assert main(["check", *arguments]) == 2, arguments
        assert why in capsys.readouterr().err


def test_the_table_has_the_worst_first_and_no_control_characters(planted, capsys):
    assert main(["check", str(planted.folder)]) == 0
    printed = capsys.readouterr().out
    order = [line.split()[0] for line in printed.splitlines() if line.startswith(("PROBLEM", "WARNING", "NOTE"))]
    assert order == sorted(order, key=["PROBLEM", "WARNING", "NOTE"].index)
    assert printed.splitlines()[-1].endswith(
        f"{order.count('PROBLEM')} problems, {order.count('WARNING')} warnings, {order.count('NOTE')} notes"
    )
    assert "\u202e" not in printed
    assert "U+202E" in printed


def test_real_corpora_have_no_problems(tmp_path):
    if "SFT_SPEECH_DATA" not in os.environ:
        pytest.skip("SFT_SPEECH_DATA is not set: no real speech here")
    data = Path(os.environ["SFT_SPEECH_DATA"])
    for corpus in ("LibriSpeech", "LJSpeech-mini", "digits"):
        report = check(tmp_path, data / corpus)
        assert report["verdict"]["problem"] == report["verdict"]["warning"] == 0, report["findings"]


def test_audio_within_tables(clean, tmp_path):
    """Parquet files of two splits, as on the Hub."""
    import datasets

    folder = tmp_path / "tables"
    folder.mkdir()
    for split in ("train", "test"):
        with open(clean / split / "metadata.csv") as file:
            rows = list(csv.DictReader(file))[:12]
        for row in rows:
            name = row.pop("file_name")
            row["audio"] = {"bytes": (clean / split / name).read_bytes(), "path": name}
        table = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    report = check(tmp_path, folder, "--html", tmp_path / "page.html")
    assert {name: split["utterances"] for name, split in report["splits"].items()} == {"test": 12, "train": 12}
    assert report["audio"]["utterances"] == 24
    assert report["verdict"]["problem"] == report["verdict"]["warning"] == 0


@pytest.mark.parametrize("kind", ["whisper", "moonshine", "speech2text"])
def test_a_model_that_writes_token_by_token(clean, tiny_seq2seq, tmp_path, kind):
    """It lets a transcript pass if its tokens fit the decoder, in any language that it knows."""
    report = check(tmp_path, clean, "--model", tiny_seq2seq(kind), "--max_hours", 0.002)
    assert report["model"]["utterances"] > 0
    assert "more labels than the model can learn" in report["rules"]["said"]
    longest = {"max_target_positions": 12} if kind != "moonshine" else {"max_position_embeddings": 12}
    report = check(tmp_path, clean, "--model", tiny_seq2seq(kind, **longest), "--max_hours", 0)
    dropped = cases(report)["dropped_more_tokens_than_the_decoder_takes"]
    assert dropped
    assert all(name.startswith("train") for name in dropped)


def test_a_model_without_a_trained_head_gives_its_rules_but_does_not_transcribe(clean, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    model = tmp_path / "pretrained"
    shutil.copytree(MODEL, model)
    weights = load_file(model / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "lm_head" not in k}, model / "model.safetensors", {"format": "pt"})
    report = check(tmp_path, clean, "--model", model, "--max_hours", 0.005)
    assert "model" not in report
    assert f"vocabulary and frames of {model}" in report["rules"]["said"]
    assert "it cannot transcribe" in caplog.text


@pytest.mark.parametrize(("share", "shown"), [(1.0, "100.0%"), (0.0334, "3.3%")])
def test_the_share_of_the_largest_speaker(share, shown):
    table = Report("s", sections={"speakers": {"count": 1, "largest": ["anna", share]}}).table()
    assert f"speakers    1; {shown} of the hours by anna" in table.splitlines()
