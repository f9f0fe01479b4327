"""Folders of files for the tests of layouts."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def fill(tmp_path):
    """A function that writes text files, by their paths below the test's folder; it returns that folder.

    Recordings are empty: a listing doesn't open them.
    """

    def fill(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return fill


@pytest.fixture
def listed(tmp_path):
    """A function that returns id, path below the test's folder, text and speaker of each row of a source."""

    def listed(source, split: str | None = None) -> list[tuple[str, ...]]:
        rows = source.listing(split).rows.to_pylist()
        return [(row["id"], str(Path(row["path"]).relative_to(tmp_path)), row["text"], row["speaker"]) for row in rows]

    return listed
