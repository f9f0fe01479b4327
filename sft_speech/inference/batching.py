"""Batches bounded in padded seconds: utterances times the longest of them, which is what a batch costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# oneDNN compiles its convolutions, and its products in bfloat16, for every new shape. So on a CPU batches of waveforms
# are padded to a multiple of so many seconds.
WHOLE_SECONDS = 0.5


def cut(order: Iterable[int], seconds: np.ndarray, max_batch_seconds: float) -> list[list[int]]:
    """Cut utterances, in the given order, into batches of at most ``max_batch_seconds`` padded seconds.

    An utterance longer than the budget gets its own batch.

    Args:
        order: indices into ``seconds``.
        seconds: (N,) length of every utterance.
    """
    ordered = np.fromiter(order, int)
    return [ordered[begin:end].tolist() for begin, end in batch_spans(seconds[ordered], max_batch_seconds)]


def sorted_batches(seconds: Sequence[float] | np.ndarray, max_batch_seconds: float) -> list[list[int]]:
    """Return every utterance once, in batches, the longest first: memory runs out in the first batch or never."""
    lengths = np.asarray(seconds, dtype=float)
    return cut(np.argsort(-lengths, kind="stable"), lengths, max_batch_seconds)


def batch_spans(seconds: np.ndarray, max_batch_seconds: float) -> list[tuple[int, int]]:
    """Return where batches begin and end, for utterances (N,) that are already in order."""
    found: list[tuple[int, int]] = []
    begin, longest = 0, 0.0
    for index, length in enumerate(seconds.tolist()):  # iterating over numpy scalars takes five times as long
        longest_with = length if length > longest else longest
        if index > begin and (index - begin + 1) * longest_with > max_batch_seconds:
            found.append((begin, index))
            begin, longest_with = index, length
        longest = longest_with
    return [*found, (begin, len(seconds))] if len(seconds) else found


def rounded(inputs: Mapping[str, Tensor], multiple: int, max_samples: float = math.inf) -> dict[str, Tensor]:
    """Return the inputs of a model with waveforms (B, S) padded further; log-mel frames stay as they are.

    Args:
        multiple: S becomes a multiple of it.
        max_samples: this padding ends where B times S reach this limit.
    """
    if "input_values" not in inputs:
        return dict(inputs)
    from torch.nn.functional import pad

    clips, samples = inputs["input_values"].shape
    missing = int(max(0, min(-samples % multiple, max_samples / clips - samples)))
    return {name: pad(value, (0, missing)) for name, value in inputs.items()}
