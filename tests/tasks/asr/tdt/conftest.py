"""A tiny random transducer."""

from __future__ import annotations

import pytest
from tiny_transducer import write_transducer


@pytest.fixture(scope="session")
def transducer(tmp_path_factory):
    """The directory of such a checkpoint."""
    folder = tmp_path_factory.mktemp("parakeet-tdt")
    write_transducer(folder)
    return folder
