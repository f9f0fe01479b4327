"""Long recordings in pieces of equal length."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tasks.pretraining.pieces import PieceDraw, piece_counts, piece_of, piece_seconds
from sft_speech.training.plan import REPEAT, BatchPlan


def test_counts_and_lengths():
    seconds = np.array([3.0, 10.0, 10.1, 25.0])
    assert piece_counts(seconds, 10.0).tolist() == [1, 1, 2, 3]
    assert piece_seconds(seconds, 10.0) == pytest.approx([3.0, 10.0, 5.05, 25 / 3])


def test_pieces_follow_each_other_within_a_segment():
    row = {"id": "a", "seconds": 25.0, "start": 2.0}
    pieces = [piece_of(row, number, 10.0) for number in range(3)]
    assert [one["start"] for one in pieces] == pytest.approx([2.0, 2 + 25 / 3, 2 + 50 / 3])
    assert [one["seconds"] for one in pieces] == pytest.approx([25 / 3] * 3)
    assert piece_of({"id": "a", "seconds": 5.0, "start": None}, 0, 10.0)["start"] is None


def test_an_epoch_has_every_piece_once():
    draw = PieceDraw(np.array([1, 3, 2]))
    assert draw.copies == 3
    # occurrence * 3 + recording
    assert draw.keys(0).tolist() == [0, 1, 2, 3 + 1, 3 + 2, 6 + 1]
    lengths = np.array([4.0, 5.0, 6.0])
    plan = BatchPlan(lengths, 12.0, batches=8, draw=draw)
    batches = list(plan)[: plan.per_epoch]
    found = sorted((index, epoch // REPEAT) for batch in batches for epoch, index in batch)
    assert found == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert plan.hours(plan.per_epoch) * 3600 == pytest.approx(4 + 3 * 5 + 2 * 6)


def test_the_shortest_recording_that_a_mask_fits_into():
    """The convolutions of wav2vec 2.0 make 10 frames of 0.205 s: 25 ms, and 20 ms for each further frame."""
    from sft_speech.audio.units import conv_frames
    from sft_speech.models.base_front_end import receptive_field

    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    assert receptive_field(kernels, strides, 10) == 400 + 9 * 320 == 3280
    assert (conv_frames(3279, kernels, strides), conv_frames(3280, kernels, strides)) == (9, 10)
