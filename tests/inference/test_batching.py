from __future__ import annotations

import numpy as np
import torch

from sft_speech.inference.batching import cut, rounded, sorted_batches


def test_cut_counts_padding():
    # two of 3 s cost 6; a third one of 4 s would make it 3 x 4 = 12
    assert cut([0, 1, 2, 3], np.array([3.0, 3.0, 4.0, 4.0]), 8.0) == [[0, 1], [2, 3]]


def test_cut_gives_an_overlong_utterance_its_own_batch():
    assert cut([0, 1, 2], np.array([1.0, 50.0, 1.0]), 10.0) == [[0], [1], [2]]


def test_sorted_batches_start_with_the_longest():
    assert sorted_batches([1.0, 5.0, 2.0, 4.0], 8.0) == [[1], [3, 2], [0]]
    assert sorted_batches([], 8.0) == []


def test_batches_of_waveforms_are_padded_to_a_multiple_within_a_limit():
    inputs = {"input_values": torch.ones(2, 5), "attention_mask": torch.ones(2, 5)}
    assert rounded(inputs, 4)["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]] * 2
    assert rounded(inputs, 4, max_samples=12)["input_values"].shape == (2, 6)
    assert rounded(inputs, 1)["input_values"].shape == (2, 5)
    frames = {"input_features": torch.ones(2, 5, 3)}
    assert rounded(frames, 4)["input_features"] is frames["input_features"]
