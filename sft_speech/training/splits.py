"""The record of how a run was split over processes, part by part, to resume it with another number of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from sft_speech.errors import UserError

FILE = "batch_plan.json"  # in a checkpoint


@dataclasses.dataclass(frozen=True)
class Split:
    """The way in which a part of a run cuts epochs into batches and deals them out.

    Args:
        world: number of processes.
        seed: seed of the shuffling.
        accumulation: batches per process in an optimizer step.
        batches: batches per process in this part of the run.
        max_batch_seconds: padded seconds per batch and process.
    """

    world: int
    seed: int
    accumulation: int
    batches: int
    max_batch_seconds: float

    def is_like(self, other: Split) -> bool:
        """Return whether both make the same batches."""
        return (self.world, self.max_batch_seconds, self.seed) == (other.world, other.max_batch_seconds, other.seed)

    def change(self, before: Split, left: int) -> str:
        """Return a log line that explains the effect of resuming with this split.

        Args:
            before: the split of the run so far.
            left: number of utterances left in the current epoch.
        """
        launch, launch_before = (f"{one.world} x {one.max_batch_seconds:g} s" for one in (self, before))
        step, step_before = (one.world * one.max_batch_seconds * one.accumulation for one in (self, before))
        return (
            f"resumed with another split (processes x batches: {launch}, before {launch_before}): each of the {left:,} "
            f"utterances left in this epoch comes once, in a new order; an optimizer step has up to {step:g} s of "
            f"audio, before {step_before:g} s"
        )


def write(splits: list[Split], checkpoint: Path) -> None:
    """Write the splits of a run, in their order, into a checkpoint."""
    (checkpoint / FILE).write_text(json.dumps([dataclasses.asdict(one) for one in splits]) + "\n", encoding="utf-8")


def read(checkpoint: Path) -> list[Split]:
    """Return the splits of a run up to a checkpoint; none if it is older than this file.

    Raises:
        UserError: the content of the file is not what a run writes.
    """
    file = checkpoint / FILE
    if not file.is_file():
        return []
    try:
        splits = [
            Split(
                world=int(one["world"]),
                seed=int(one["seed"]),
                accumulation=int(one["accumulation"]),
                batches=int(one["batches"]),
                max_batch_seconds=float(one["max_batch_seconds"]),
            )
            for one in json.loads(file.read_text(encoding="utf-8"))
        ]
        if any(split.world < 1 or split.batches < 0 or not split.max_batch_seconds > 0 for split in splits):
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(str(file), "it is not what a run writes", "resume from another checkpoint") from error
    return splits
