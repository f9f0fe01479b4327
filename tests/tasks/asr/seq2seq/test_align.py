from __future__ import annotations

import numpy as np

from sft_speech.tasks.asr.seq2seq.align import alignment_heads, token_times


def test_heads_are_the_given_ones_or_those_of_the_upper_layers() -> None:
    assert alignment_heads([[1, 0], [2, 5]], 4, 6) == [(1, 0), (2, 5)]
    assert alignment_heads(None, 3, 2) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_heads_that_the_decoder_lacks_are_ignored() -> None:
    """A distilled model lists those of its teacher, which has more layers."""
    assert alignment_heads([[1, 0], [7, 0], [0, 9]], 2, 2) == [(1, 0)]
    assert alignment_heads([[7, 0], [10, 17]], 2, 2) == [(1, 0), (1, 1)]


def test_times_are_those_of_the_strongest_attention() -> None:
    """Two heads that move along, and one that looks at the start all the time."""
    attention = np.full((3, 4, 40), 1e-3)
    for row, (first, last) in enumerate([(0, 10), (10, 16), (16, 30), (30, 40)]):
        attention[:2, row, first:last] = 1
    attention[2, :, 0] = 1
    starts, ends = token_times(attention, 4.0)
    assert np.allclose(starts, [0.0, 1.0, 1.6], atol=0.11)
    assert np.allclose(ends, [1.0, 1.6, 3.0], atol=0.11)


def test_times_increase_and_stay_within_the_clip_for_any_attention() -> None:
    attention = np.random.default_rng(0).random((4, 9, 30))
    starts, ends = token_times(attention, 2.0)
    assert len(starts) == len(ends) == 8
    assert np.all(np.diff(starts) >= 0)
    assert np.all(ends >= starts)
    assert starts[0] >= 0
    assert ends[-1] <= 2.0


def test_no_tokens_have_no_times() -> None:
    starts, ends = token_times(np.ones((2, 1, 10)), 1.0)
    assert (len(starts), len(ends)) == (0, 0)


def test_attention_that_never_changes_does_no_harm() -> None:
    starts, ends = token_times(np.ones((2, 3, 10)), 1.0)
    assert np.isfinite([*starts, *ends]).all()
