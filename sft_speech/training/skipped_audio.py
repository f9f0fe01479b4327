"""Utterances that could be read when the run began and can't be any more: counted; too many end the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sft_speech.errors import UserError

# Utterances that are judged together. Counted from the beginning of a run, a disk that fails after a week would be
# noticed a day later.
WINDOW = 1000
CONTENTS = "contents"  # key of a batch; no tensor


@dataclass(frozen=True)
class WithContents:
    """A collator whose batches hold the ids of their utterances, and how many could not be read.

    Args:
        collate: utterances, some of them None, to a batch.
    """

    collate: Callable[[list[Any]], dict[str, Any]]

    def __call__(self, utterances: list[Any]) -> dict[str, Any]:
        ids = [utterance["id"] for utterance in utterances if utterance is not None]
        return {**self.collate(utterances), CONTENTS: {"ids": ids, "skipped": len(utterances) - len(ids)}}


class SkippedAudio:
    """Judges how many utterances were skipped because they could not be read.

    Args:
        max_share: more of them end the run.
        corpus: utterances in the corpus; of a small one the share is that of an epoch.
    """

    def __init__(self, max_share: float, corpus: int = WINDOW) -> None:
        self.max_share, self.window = max_share, min(WINDOW, corpus)
        self.asked, self.skipped = 0, 0  # since the last window was full

    def judge(self, asked: int, skipped: int) -> None:
        """Add utterances to the window.

        Raises:
            UserError: more of them were skipped than may be in a whole window.
        """
        self.asked, self.skipped = self.asked + asked, self.skipped + skipped
        if self.skipped > self.max_share * max(self.window, self.asked):
            shown = f"{self.skipped:,} of the last {self.asked:,} utterances"
            bound = f"more than max_dropped_share = {self.max_share:.1%}"
            why = f"they could be read when the run began, but no longer: {bound}"
            do = "restore their files (messages above), then resume with --resume_from_checkpoint"
            raise UserError(shown, why, do)
        if self.asked >= self.window:
            self.asked, self.skipped = 0, 0


def check_evaluation(asked: int, skipped: int, max_share: float) -> None:
    """Check that an evaluation covers its split: figures of another part of it can't be compared.

    Raises:
        UserError: none of its utterances could be read, or too few.
    """
    if skipped == asked:  # no errors, which would be the best word error rate of all
        raise UserError("the evaluation", "none of its utterances could be read", "see the messages above")
    if skipped > max_share * asked:
        why = f"{skipped:,} of its {asked:,} utterances can't be read any more"
        do = "restore their files (messages above), or raise max_dropped_share; --resume_from_checkpoint continues"
        raise UserError("the evaluation", f"{why}, more than max_dropped_share = {max_share:.1%}", do)
