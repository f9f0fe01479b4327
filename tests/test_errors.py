"""Messages cannot control the terminal."""

from __future__ import annotations

import logging

import pytest

from sft_speech.cli import main
from sft_speech.errors import PrintableFormatter, UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07.wav", r"\x1b]0;title\x07.wav"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b2J", r"\x9b2J"),  # the same as ESC [ to some terminals
        ("\u202egpj.wav", r"\u202egpj.wav"),
        ("a\udce9.wav", r"a\udce9.wav"),
        ("Käse, 日本\u3000語, می\u200cخواهم 👩\u200d🔬", "Käse, 日本\u3000語, می\u200cخواهم 👩\u200d🔬"),
    ],
)
def test_control_characters_are_escaped_and_letters_are_not(text, shown):
    assert printable(text) == shown


def test_errors_keep_their_lines():
    error = UserError("\x1b[31mred\x1b[0m.csv", "it can't be read\nfor a reason", "mend it")
    assert str(error) == r"\x1b[31mred\x1b[0m.csv: it can't be read" + "\nfor a reason.\n-> mend it"
    assert error.given == "\x1b[31mred\x1b[0m.csv"


def test_the_log_is_printable():
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s can't be read", ("\x1b[2J.wav",), None)
    assert PrintableFormatter("%(message)s").format(record) == r"\x1b[2J.wav can't be read"


def test_the_real_command(tmp_path, capfd):
    assert main(["evaluate", "model", "--source", str(tmp_path / "\x1b[2J.csv")]) == 2
    assert "\x1b" not in capfd.readouterr().err
