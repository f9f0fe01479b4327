"""The command line around the verbs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from sft_speech import cli
from sft_speech.errors import UserError
from sft_speech.options.spec import Verb
from sft_speech.tools import TOOLS


@pytest.fixture
def verb(monkeypatch):
    """A function that installs a verb that runs ``action``."""

    def install(action):
        module = type(sys)("verb")
        module.add_arguments, module.main = lambda parser: None, lambda args: action()
        monkeypatch.setitem(sys.modules, "a_verb", module)
        monkeypatch.setitem(TOOLS, "act", Verb("a_verb", "acts"))

    return install


def failing(error: BaseException):
    def action():
        raise error

    return action


def test_exit_codes(verb, capsys):
    verb(lambda: None)
    assert cli.main(["act"]) == 0
    verb(failing(UserError("this", "it can't work", "take that")))
    assert cli.main(["act"]) == 2
    assert capsys.readouterr().err == "this: it can't work.\n-> take that\n"
    verb(failing(OSError(errno.ENOSPC, "No space left on device", "file")))
    assert cli.main(["act"]) == 2
    assert capsys.readouterr().err == "file: No space left on device\n"
    verb(failing(KeyboardInterrupt()))
    assert cli.main(["act"]) == 1


def test_debug_shows_the_traceback(verb):
    verb(failing(UserError("this", "it can't work", "take that")))
    with pytest.raises(UserError):
        cli.main(["act", "--debug"])


def test_other_errors_are_not_hidden(verb):
    verb(failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        cli.main(["act"])


def test_an_unknown_verb(capsys):
    assert cli.main(["transcibe"]) == 2
    assert "no verb 'transcibe'" in capsys.readouterr().err


def test_a_closed_pipe_prints_no_traceback():
    program = (
        "import sys, types; from sft_speech import cli\n"
        "module = types.ModuleType('verb'); module.add_arguments = lambda parser: None\n"
        "module.main = lambda args: [print('line', flush=True) for _ in range(100000)] and 0\n"
        "sys.modules['verb'] = module; from sft_speech.options.spec import Verb\n"
        "cli.TOOLS['act'] = Verb('verb', ''); sys.exit(cli.main(['act']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


def test_a_closed_pipe_of_the_list_of_verbs():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sft_speech", "--help"]  # a text so short that it is only written at the end
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (process.returncode, process.stderr) == (1, b"")


def test_the_wait_policy_of_threads_is_set_before_torch_is_imported(verb, monkeypatch):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    seen = []
    verb(lambda: seen.append([cli.os.environ.get(name) for name in names]))
    assert cli.main(["act"]) == 0
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert cli.main(["act"]) == 0
    assert seen == [["PASSIVE", "20000"], ["ACTIVE", None]]  # a value set by the user is kept
    program = "import sys; from sft_speech import cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
