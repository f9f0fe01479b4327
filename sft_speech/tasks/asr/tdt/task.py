"""The task of fine-tuning a token-and-duration transducer for speech recognition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sft_speech.corpora.select import Reason
from sft_speech.tasks.asr.ctc.task import CtcRecognition
from sft_speech.tasks.asr.tdt.checkpoint import Checkpoint, load_checkpoint
from sft_speech.tasks.asr.tdt.loss import TdtCriterion


class TdtRecognition(CtcRecognition):
    """Fine-tuning of a transducer: that of a CTC model but for the loss and what fits into a clip."""

    checkpoint: Checkpoint
    read = staticmethod(load_checkpoint)

    def objective(self) -> TdtCriterion:
        return TdtCriterion(self.model.config)

    def rules(self) -> dict[str, Any]:
        durations: Sequence[int] = self.model.config.durations
        return super().rules() | {"why_unusable": partial(unaligned, min(durations))}


def unaligned(shortest: int, labels: Sequence[int], frames: int) -> Reason | None:
    """Return why a transducer cannot align labels with frames, if it cannot.

    Args:
        shortest: fewest frames that a label takes.
    """
    if frames < 1:
        return "too short", "not one frame"
    if len(labels) * shortest < frames:  # the last frame is a blank's
        return None
    return "more labels than frames", f"{len(labels)} labels of at least {shortest} each, {frames} frames"
