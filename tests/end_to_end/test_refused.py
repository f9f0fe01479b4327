"""A refused run leaves no files behind."""

from __future__ import annotations

import pytest

from sft_speech.cli import main


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("source", "nowhere", "no such file or folder"),
        ("model", "./nowhere", "nowhere"),
        ("eval_split", "no-such-split", "no-such-split"),
    ],
)
def test_no_new_directory_and_no_lock_file(tones, small, tmp_path, capsys, key, value, why):
    settings = {"model": small, "source": tones, "train_split": "train-tones", "eval_split": "dev-tones"} | {key: value}
    line = [part for name, given in settings.items() for part in (f"--{name}", str(given))]
    assert main(["finetune-asr", *line, "--output_dir", str(tmp_path / "runs" / "out"), "--report_to", "none"]) == 2
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
