"""The labels of a corpus: selection of those that a model learns, and of usable rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.corpora.columns import split_labels
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of
from sft_speech.corpora.select import length_reason
from sft_speech.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.classification.config import FinetuneClassificationConfig

MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Labels:
    """The classes of a model.

    Args:
        names: by their id.
        multi: whether a clip may have several, written as ``a|b``.
    """

    names: tuple[str, ...]
    multi: bool = False

    def parts(self, text: str | None) -> list[str]:
        """Return the labels that a row's text names; [] if it is empty."""
        return labels_in(text, self.multi)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a row's labels, sorted.

        Raises:
            KeyError: one of them is unknown.
        """
        return sorted({self.ids[name] for name in self.parts(text)})

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by name."""
        return {name: id for id, name in enumerate(self.names)}


def labels_in(text: str | None, multi: bool) -> list[str]:
    """Return the labels that a text names."""
    if multi:
        return split_labels(text or "")
    return [text.strip()] if text and text.strip() else []


def find_labels(rows: Dataset, config: FinetuneClassificationConfig) -> Labels:
    """Return the labels with enough training clips, sorted.

    Raises:
        UserError: there are fewer than two, or more than :data:`MOST_CLASSES`.
    """
    counts: Counter[str] = Counter()
    given = f"column {config.label_column or 'of labels'}"
    for text, seconds in zip(column_of(rows, "label").to_pylist(), column_of(rows, "seconds").to_pylist(), strict=True):
        if length_reason(seconds, config.min_seconds, config.max_seconds) is None:
            counts.update(set(labels_in(text, config.multi_label)))
    names = tuple(sorted(name for name, count in counts.items() if count >= config.min_label_count))
    if len(counts) > MOST_CLASSES or (len(counts) > 1 and not names):
        distinct = f"{len(counts):,} distinct values in {len(rows):,} rows"
        why = f"a label column with {distinct} looks like an identifier or a transcript"
        raise UserError(given, why, "name another label_column")
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        why = f"a classifier needs two labels with {config.min_label_count} or more clips each, there is {found}"
        raise UserError(given, why, "add clips of other labels, or name another label_column")
    return Labels(names, config.multi_label)


def select_labelled(
    rows: Dataset,
    split: str,
    report: CorpusReport,
    labels: Labels,
    limits: tuple[float, float] | None = None,
) -> Dataset:
    """Return the rows whose labels the model has; the others go to the report.

    Args:
        limits: shortest and longest clip in seconds; None keeps all.

    Raises:
        UserError: no row has a label of the model.
    """
    known, kept = frozenset(labels.names), []
    ids, seconds = column_of(rows, "id").to_pylist(), column_of(rows, "seconds").to_numpy()
    for number, text in enumerate(column_of(rows, "label").to_pylist()):
        named = labels.parts(text)
        unknown = [name for name in named if name not in known]
        reason = length_reason(seconds[number], *limits) if limits else None
        if not named:
            reason = "empty label", ""
        elif unknown:
            reason = ("rare label" if limits else "label not trained on"), ", ".join(unknown)
        if reason is None:
            kept.append(number)
        else:
            report.drop(split, ids[number], *reason)
    report.keep(split, len(kept), float(seconds[kept].sum()))
    if not kept:
        raise UserError(f"corpus {split}", "none of its rows has a label of the model", report.table())
    return rows if len(kept) == len(rows) else rows.select(kept)


def balanced_weights(texts: Sequence[str], labels: Labels) -> np.ndarray:
    """Return weights (C,) of C classes, inverse to their frequency, whose mean over the clips of ``texts`` is 1.

    With several labels per clip: the weights of a label's presence over its absence, at most 100.
    """
    counts = np.bincount([id for text in texts for id in labels.encode(text)], minlength=len(labels.names))
    if labels.multi:
        return np.clip((len(texts) - counts) / np.maximum(counts, 1), 0.01, 100)
    return len(texts) / (len(counts) * np.maximum(counts, 1))
