"""The utterances on which two models are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.corpora.report import CorpusReport


def rows_for(task: str, checkpoint: Any, rows: Dataset, split: str, report: CorpusReport) -> tuple[Dataset, str]:
    """Return the rows that can be evaluated, and the name of their split.

    Raises:
        UserError: there are none.
    """
    if task == "asr":
        from sft_speech.tasks.asr.evaluate import reported

        rows = reported(checkpoint, rows, split, report)
    else:
        from sft_speech.tasks.classification.labels import select_labelled

        rows = select_labelled(rows, split, report, checkpoint.labels)
    if not len(rows):
        raise UserError(f"split {split}", "none of its utterances can be compared", "give another --split")
    return rows, split
