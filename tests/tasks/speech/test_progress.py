from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tasks.speech.progress import Progress

STEP = 0.1  # seconds: the end of the text is followed by 3 steps, and patience is 15 steps


def follow(positions, *, tokens=40, last=38, limit=1000, stop_at=None, focus=1.0):
    """Return the progress of an utterance that attends to each position in turn, with a share of its attention."""
    progress = Progress(last, limit, STEP)
    for step, position in enumerate(positions, 1):
        attention = np.full(tokens, (1 - focus) / tokens)
        attention[position] += focus
        progress.add(attention, step == stop_at)
        if progress.ending is not None:
            break
    return progress


READS = list(range(40))  # one token per step; the median of five positions is two steps late


@pytest.mark.parametrize(
    ("positions", "keys", "ending", "kept", "seen"),
    [
        (READS, {"stop_at": 35}, "stop", 35, 35),
        (READS + [39] * 50, {}, "spoken", 41 + 3, 44),
        (READS + [0] * 50, {}, "spoken", 40 + 3, 40 + 15),
        (READS[:20] + [19] * 50, {}, "stuck", 22 + 3, 22 + 15),
        (READS[:20] + [5, 6, 7, 8] * 20, {}, "repeated", 20 + 3, 20 + 15),
        (READS[:20] + READS[10:] + [39] * 20, {}, "spoken", 51 + 3, 54),  # a phrase twice, then the rest
        (READS + [39] * 50, {"last": None, "limit": 60}, "limit", 60, 60),
        (READS + [39] * 50, {"focus": 0.3, "limit": 60}, "limit", 60, 60),  # spread attention says nothing
        (READS[:9] + [39] + READS[10:30] + [29] * 50, {}, "stuck", 32 + 3, 32 + 15),  # one glance at the end
        ([39] * 100, {"limit": 60}, "limit", 60, 60),  # heads that attend to one end of the text do not read it
        ([0] * 100, {"limit": 60}, "limit", 60, 60),
        (READS, {"limit": 0}, "limit", 1, 1),
    ],
)
def test_why_and_where_an_utterance_ends(positions, keys, ending, kept, seen):
    progress = follow(positions, **keys)
    assert (progress.ending, progress.kept, len(progress.attention)) == (ending, kept, seen)


def test_even_attention_over_few_tokens_says_nothing():
    assert follow([0] * 100, tokens=4, last=3, limit=50, focus=0.1).ending == "limit"
