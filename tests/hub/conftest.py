from __future__ import annotations

from pathlib import Path

import pytest
from finished_run import finished_run


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run."""
    return finished_run(tmp_path)
