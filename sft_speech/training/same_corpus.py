"""Detect a resumed run whose corpus has changed: a position in the plan is meaningless for another corpus."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.corpora.rows import column_of
from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)

FILE = "corpus.json"  # in a checkpoint


def identity(rows: Any, seconds: np.ndarray) -> dict[str, Any]:
    """Return what identifies a corpus: its ids and lengths, in their order.

    Args:
        seconds: (N,) cost of each utterance in a batch.
    """
    digest = hashlib.blake2b(seconds.tobytes(), digest_size=16)
    for block in column_of(rows, "id").chunks:
        digest.update("".join(f"{id}\0" for id in block.to_pylist()).encode("utf-8", "surrogateescape"))
    return {"utterances": len(seconds), "hours": float(seconds.sum() / 3600), "fingerprint": digest.hexdigest()}


def save(corpus: dict[str, Any], checkpoint: Path) -> None:
    """Write a corpus's :func:`identity` into a checkpoint."""
    (checkpoint / FILE).write_text(json.dumps(corpus) + "\n", encoding="utf-8")


def compare(corpus: dict[str, Any], checkpoint: Path) -> None:
    """Warn if a checkpoint was trained on another corpus. This is not an error: recordings may have been repaired."""
    try:
        before = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the checkpoint is older than this file
        return
    if before != corpus:
        shown = [f"{counted(one['utterances'], 'utterance')} of {one['hours']:.2f} h" for one in (before, corpus)]
        what = "{} then, {} now".format(*shown) if shown[0] != shown[1] else "other ids or lengths"
        if before | {"passes": None} == corpus | {"passes": None}:
            what = "other shares of the sources"
        logger.warning(
            "the training corpus has changed since %s (%s): utterances come in a different order from here on, some "
            "of this epoch twice, others not at all",
            *(checkpoint.name, what),
        )
