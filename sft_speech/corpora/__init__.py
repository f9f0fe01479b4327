"""Corpora: rows from all kinds of sources, the report on them, and the selection of usable ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_speech.corpora.from_datasets import rows_of_dataset
    from sft_speech.corpora.load import load_corpus
    from sft_speech.corpora.report import CorpusReport
    from sft_speech.corpora.select import select_usable

__all__ = ["CorpusReport", "load_corpus", "rows_of_dataset", "select_usable"]


def __getattr__(name: str) -> Any:
    """Import pyarrow and the like when a name is used, not before."""
    from importlib import import_module

    modules = {
        "CorpusReport": "report",
        "load_corpus": "load",
        "rows_of_dataset": "from_datasets",
        "select_usable": "select",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
