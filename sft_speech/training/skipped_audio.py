"""Count utterances that have become unreadable since the run began; too many end the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sft_speech.errors import UserError

# Utterances over which the share is taken. Over the whole run, a disk that fails after a week would be noticed only a
# day later.
WINDOW = 1000
CONTENTS = "contents"  # key in a batch; its value is not a tensor


@dataclass(frozen=True)
class WithContents:
    """A collator whose batches hold the ids of their utterances, and how many could not be read.

    Args:
        collate: makes a batch of utterances, some of which may be None.
    """

    collate: Callable[[list[Any]], dict[str, Any]]

    def __call__(self, utterances: list[Any]) -> dict[str, Any]:
        ids = [utterance["id"] for utterance in utterances if utterance is not None]
        return {**self.collate(utterances), CONTENTS: {"ids": ids, "skipped": len(utterances) - len(ids)}}


class SkippedAudio:
    """Judges how many utterances were skipped because they could not be read.

    Args:
        max_share: a larger share of skipped utterances ends the run.
        corpus: utterances in the corpus; for a small one, the share is taken over an epoch.
    """

    def __init__(self, max_share: float, corpus: int = WINDOW) -> None:
        self.max_share, self.window = max_share, min(WINDOW, corpus)
        self.asked, self.skipped = 0, 0  # in the current window

    def judge(self, asked: int, skipped: int) -> None:
        """Add utterances to the window.

        Raises:
            UserError: more were skipped than a whole window may have.
        """
        self.asked, self.skipped = self.asked + asked, self.skipped + skipped
        if self.skipped > self.max_share * max(self.window, self.asked):
            shown = f"{self.skipped:,} of the last {self.asked:,} utterances"
            bound = f"more than max_dropped_share = {self.max_share:.1%}"
            why = f"they could be read when the run began, but no longer can be: {bound}"
            do = "restore their files (see above), then resume with --resume_from_checkpoint"
            raise UserError(shown, why, do)
        if self.asked >= self.window:
            self.asked, self.skipped = 0, 0


def check_evaluation(asked: int, skipped: int, max_share: float) -> None:
    """Check that an evaluation covers its split; otherwise its figures are not comparable.

    Raises:
        UserError: none of its utterances could be read, or too few.
    """
    if skipped == asked:  # without this, the word error rate would be a perfect 0
        raise UserError("the evaluation", "none of its utterances could be read", "see the messages above")
    if skipped > max_share * asked:
        why = f"{skipped:,} of its {asked:,} utterances cannot be read any more"
        do = "restore their files (see above), or raise max_dropped_share; --resume_from_checkpoint continues"
        raise UserError("the evaluation", f"{why}, more than max_dropped_share = {max_share:.1%}", do)
