"""The command, without gradio."""

from __future__ import annotations

import sys

import pytest

from sft_speech.cli import main


def test_without_gradio_the_command_says_how_to_install_it(monkeypatch, capsys) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")  # restores it afterwards
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "some_model"]) == 2
    assert "pip install 'sft_speech[demo-page]'" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--port", "0"), ("--port", "70000"), ("--max_seconds", "0")])
def test_values_that_make_no_sense_are_refused(flag: str, value: str, capsys) -> None:
    assert main(["demo", "some_model", flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"{flag} {value}: ")
