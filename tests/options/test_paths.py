"""Paths in options: ``~`` and variables."""

from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.options.settings import (
    load_config,
    save_config,
)
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.vc.config import FinetuneVcConfig

NEEDED = {"model": "m", "source": "s", "output_dir": "o"}


def make(**values: object) -> FinetuneAsrConfig:
    return load_config(FinetuneAsrConfig, None, NEEDED | values)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_in_a_path_is_the_home_directory_whatever_the_option(home, tmp_path):
    """The Trainer would write checkpoints into the home directory, and this package everything else into ``./~``."""
    file = tmp_path / "run.yaml"
    keys = ("model", "source", "eval_source", "output_dir", "resume_from_checkpoint", "vocoder", "speaker_encoder")
    file.write_text("".join(f"{key}: ~/{key}\n" for key in (*keys, "from_source")) + "run_name: ~/name\n")
    config = load_config(FinetuneVcConfig, str(file), {})
    assert {key: getattr(config, key) for key in (*keys, "from_source")} == {
        key: f"{home}/{key}" for key in (*keys, "from_source")
    }
    assert config.run_name == "~/name"
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(FinetuneVcConfig, str(tmp_path / "saved.yaml"), {}) == config


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("$SCRATCH/runs", "$SCRATCH is not replaced here"),
        ("/data/${USER}/runs", "${USER} is not replaced here"),
        ("~nobody-of-that-name/runs", "there is no such home directory"),
    ],
)
def test_a_path_that_only_a_shell_could_complete_is_an_error(path, why):
    with pytest.raises(UserError) as error:
        make(output_dir=path)
    assert (error.value.given, error.value.why) == (f"output_dir: {path}", why)
    assert error.value.do == 'write the whole path, or let the shell replace it: --output_dir "..."'


def test_a_folder_may_be_named_like_a_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$x").mkdir()
    assert make(source="$x").source == "$x"
