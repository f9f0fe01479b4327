"""Tokens never appear in messages, settings, logs, tracebacks, or for an argument in the wrong place."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from sft_speech import cli
from sft_speech.errors import UserError
from sft_speech.redact import HIDDEN, redact, redact_record
from sft_speech.tasks.asr.config import FinetuneAsrConfig

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"it was {TOKEN}, really", f"it was {HIDDEN}, really"),
        ("https://me:secret@host/path", f"https://{HIDDEN}@host/path"),
        (f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {HIDDEN}"),
        ("Bearer eyJhbGciOi.J9", f"Bearer {HIDDEN}"),
        (
            "<b>THE STANDARD BEARER FELL</b><i>standard bearer</i>",
            "<b>THE STANDARD BEARER FELL</b><i>standard bearer</i>",
        ),
        ("outputs/hf_model", "outputs/hf_model"),
        ("anna@example.org", "anna@example.org"),
        ("http://127.0.0.1:80/a@b", "http://127.0.0.1:80/a@b"),
    ],
)
def test_tokens_and_passwords_are_recognized_by_their_form(text, clean):
    assert redact(text) == clean


def test_the_token_in_use_is_redacted_in_any_form(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "opensesame")
    assert redact("say opensesame") == f"say {HIDDEN}"
    monkeypatch.delenv("HF_TOKEN")
    assert redact("say opensesame") == "say opensesame"
    (tmp_path / "token").write_text("opensesame\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert redact("say opensesame") == f"say {HIDDEN}"


def test_no_error_shows_one():
    error = UserError(f"--model {TOKEN}", f"no {TOKEN}", f"leave out {TOKEN}")
    assert TOKEN not in str(error) + error.given + error.why + error.do
    assert str(error).count(HIDDEN) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hub_model_id", f"https://me:{TOKEN}@huggingface.co/me/model"),
        ("source", f"https://me:{TOKEN}@host/corpus"),
        ("test_splits", ["test", TOKEN]),
    ],
)
def test_no_setting_may_hold_one(key, value):
    keys = {"model": "m", "source": "s", "output_dir": "o", "train_split": "t", key: value}
    with pytest.raises(UserError, match=f"^{key}: it holds a token") as error:
        FinetuneAsrConfig(**keys)
    assert TOKEN not in str(error.value)


def test_no_line_of_the_log_shows_one():
    record = logging.LogRecord("any", logging.WARNING, "file", 1, "refused: %s", (f"Bearer {TOKEN}",), None)
    assert redact_record(record)
    assert record.getMessage() == f"refused: Bearer {HIDDEN}"


def test_an_unknown_option_is_shown_without_its_value(capsys):
    with pytest.raises(SystemExit):
        cli.main(["transcribe", "model", "--token", TOKEN])
    printed = capsys.readouterr().err
    assert printed == "sft-speech transcribe: no option --token; --help lists the options\n"
    assert TOKEN not in printed


def test_no_traceback_shows_one():
    """Neither with --debug nor for an unexpected error, nor for its cause."""
    program = (
        "import sys, types; from sft_speech import cli; from sft_speech.errors import UserError\n"
        "module = types.ModuleType('verb'); module.add_arguments = lambda parser: None\n"
        "def act(args):\n"
        f"    try: raise ValueError('cause: {TOKEN}')\n"
        "    except ValueError as cause: raise UserError('this', 'it can not work', 'take that') from cause\n"
        "module.main = act\n"
        "sys.modules['verb'] = module; from sft_speech.options.spec import Verb\n"
        "cli.TOOLS['act'] = Verb('verb', ''); sys.exit(cli.main(['act', '--debug']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # Python also shows source lines if it can read the file.
    assert "Traceback" in done.stderr
    assert f"cause: {HIDDEN}" in done.stderr
    assert TOKEN not in done.stderr
