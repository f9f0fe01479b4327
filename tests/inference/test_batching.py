from __future__ import annotations

import numpy as np

from sft_speech.inference.batching import cut, sorted_batches


def test_cut_counts_padding():
    # two of 3 s cost 6; a third one of 4 s would make it 3 x 4 = 12
    assert cut([0, 1, 2, 3], np.array([3.0, 3.0, 4.0, 4.0]), 8.0) == [[0, 1], [2, 3]]


def test_cut_gives_an_overlong_utterance_its_own_batch():
    assert cut([0, 1, 2], np.array([1.0, 50.0, 1.0]), 10.0) == [[0], [1], [2]]


def test_sorted_batches_start_with_the_longest():
    assert sorted_batches([1.0, 5.0, 2.0, 4.0], 8.0) == [[1], [3, 2], [0]]
    assert sorted_batches([], 8.0) == []
