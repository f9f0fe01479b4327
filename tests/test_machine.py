from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from sft_speech.machine import installer


@pytest.mark.parametrize(
    ("has_pip", "on_the_path", "command"),
    [
        (True, Path(sys.executable).parent / "pip", "pip install"),
        (True, "/elsewhere/bin/pip", f"{sys.executable} -m pip install"),
        (True, None, f"{sys.executable} -m pip install"),
        (False, "/elsewhere/bin/pip", "uv pip install"),  # an environment of uv
    ],
)
def test_packages_are_installed_into_this_environment(monkeypatch, has_pip, on_the_path, command):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_pip else None)
    monkeypatch.setattr(shutil, "which", lambda name: on_the_path and str(on_the_path))
    assert installer() == command
