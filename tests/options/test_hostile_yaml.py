"""YAML that was made to do harm."""

from __future__ import annotations

import time

import pytest

from sft_speech.errors import UserError
from sft_speech.options.settings import (
    load_config,
)
from sft_speech.tasks.asr.config import FinetuneAsrConfig

NEEDED = {"model": "m", "source": "s", "output_dir": "o"}
NEEDED_WORDS = ("--model", "m", "--source", "s", "--output_dir", "o")


LISTS = "&a [x, x, x, x, x, x, x, x, x]"
for last, new in ("ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ij"):  # ten levels: 9^10 times x
    LISTS = f"&{new} [{LISTS}{f', *{last}' * 8}]"
TABLES = "t0: &t0 {a: 1}\n" + "".join(f"t{n}: &t{n} {{<<: [{', '.join([f'*t{n - 1}'] * 9)}]}}\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"learning_rate: {LISTS}", "learning_rate: .*: it must be a number"),
        (f"test_splits: {LISTS}", "test_splits: .*: it must be text"),
        (f"lr_scheduler_type: {LISTS}", "lr_scheduler_type: .*: there is no such choice"),
        (TABLES, "merged tables are not supported"),
        ("max_steps: " + "[" * 60_000, "nested too deeply"),
        ("- " * 30_000, "not valid YAML"),
        ("max_steps: " + "9" * 5000, "not valid YAML"),
        ("max_steps: " + "9" * 400, "max_steps: 999.*999: it must be a number"),
        ("max_steps: 0x" + "f" * 5000, "max_steps: a number of thousands of digits: it must be"),
        ("? 0x" + "f" * 5000 + "\n: 1", "unknown key a number of thousands of digits"),
        ("seed: 2024-13-99", "not valid YAML"),
        ("seed: !!timestamp x", "not valid YAML"),
        ("seed: !!python/object/apply:os.getpid []", "not valid YAML"),
        ("source: &a [*a]", r"source: \[\[.*\]\]: it must be text"),
        ("#" * 100_000, "longer than 65536 characters"),
    ],
)
def test_yaml_that_was_made_to_do_harm_is_refused_at_once(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(f"model: m\noutput_dir: o\n{text}\n")
    began = time.process_time()
    with pytest.raises(UserError, match=message) as told:
        load_config(FinetuneAsrConfig, str(tmp_path / "run.yaml"), {})
    assert len(str(told.value)) < 1000
    assert time.process_time() - began < 20
