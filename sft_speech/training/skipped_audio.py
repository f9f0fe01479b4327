"""Utterances that could be read when the run began and can't be any more: counted, and too many of them end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sft_speech.errors import UserError

# Utterances that are judged together. A run is long: counted from its beginning on, a disk that goes away after a week
# would be noticed after a day.
WINDOW = 1000
CONTENTS = "contents"  # key of a batch; no tensor


@dataclass(frozen=True)
class WithContents:
    """A collator whose batches tell what they are made of: the ids of the utterances, and how many couldn't be read.

    Args:
        collate: utterances, some of them None, to a batch.
    """

    collate: Callable[[list[Any]], dict[str, Any]]

    def __call__(self, utterances: list[Any]) -> dict[str, Any]:
        ids = [utterance["id"] for utterance in utterances if utterance is not None]
        return {**self.collate(utterances), CONTENTS: {"ids": ids, "left_out": len(utterances) - len(ids)}}


class SkippedAudio:
    """Judges how many utterances were left out.

    Args:
        max_share: of them that is suffered.
        corpus: utterances of it; of a small one the share is that of an epoch.
    """

    def __init__(self, max_share: float, corpus: int = WINDOW) -> None:
        self.max_share, self.window = max_share, min(WINDOW, corpus)
        self.asked, self.left_out = 0, 0  # since the last window was full

    def judge(self, asked: int, left_out: int) -> None:
        """Adds utterances to the window.

        Raises:
            UserError: more of them were left out than may be in a whole window.
        """
        self.asked, self.left_out = self.asked + asked, self.left_out + left_out
        if self.left_out > self.max_share * max(self.window, self.asked):
            shown = f"{self.left_out:,} of the last {self.asked:,} utterances"
            bound = f"more than max_dropped_share = {self.max_share:.1%}"
            why = f"they could be read when the run began, but no longer: {bound}"
            do = "bring their files back (messages above), then go on with --resume_from_checkpoint"
            raise UserError(shown, why, do)
        if self.asked >= self.window:
            self.asked, self.left_out = 0, 0


def check_evaluation(asked: int, left_out: int, max_share: float) -> None:
    """See that an evaluation is still one of its whole split: figures of another part of it tell of no progress.

    Raises:
        UserError: nothing could be heard, or too little.
    """
    if left_out == asked:  # no errors, which would be the best word error rate of all
        raise UserError("the evaluation", "none of its utterances could be heard", "see the messages above")
    if left_out > max_share * asked:
        why = f"{left_out:,} of its {asked:,} utterances can't be read any more"
        do = "bring their files back (messages above), or raise max_dropped_share; --resume_from_checkpoint goes on"
        raise UserError("the evaluation", f"{why}, more than max_dropped_share = {max_share:.1%}", do)
