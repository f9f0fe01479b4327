from __future__ import annotations

from pathlib import Path

import pytest
from run_with_card import run_with_card


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run."""
    return run_with_card(tmp_path)
