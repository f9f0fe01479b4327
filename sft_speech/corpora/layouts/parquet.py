"""A folder of parquet files, as in datasets on the Hub; the ``datasets`` library reads it."""

from __future__ import annotations

from pathlib import Path

from sft_speech.corpora.columns import Columns
from sft_speech.corpora.rows import Layout

_DEPTHS = ("*.parquet", "*/*.parquet", "*/*/*.parquet")


def find(folder: Path, columns: Columns) -> Path | None:
    """Return the first parquet file, at most two folders down."""
    return next((path for depth in _DEPTHS for path in sorted(folder.glob(depth))), None)


LAYOUT = Layout("a folder of parquet files", find, lambda folder, columns: None)
