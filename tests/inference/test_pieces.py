"""Pieces through a toy model: the output of a piece is the sum of its samples, the result of a recording their list."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sft_speech.audio.read import AudioError
from sft_speech.inference.pieces import Batch, Piece, Pooled, Steps, results

RATE = 100


@dataclass(frozen=True)
class Part:
    start: int
    stop: int


@dataclass(frozen=True)
class Total:
    sums: list[float]
    problem: str


class Adding(Steps[Pooled, Part, torch.Tensor, float, Total]):
    """Pieces of a second, of 4 samples or more."""

    def __init__(self) -> None:
        self.model, self.rate = nn.Linear(1, 1, bias=False).train(), RATE
        nn.init.ones_(self.model.weight)
        self.shapes: list[tuple[int, ...]] = []
        self.models: list[nn.Module] = []

    def cut(self, source: Pooled) -> Iterator[Part]:
        samples = round(source.seconds * RATE)
        return (Part(start, min(start + RATE, samples)) for start in range(0, max(samples, 1), RATE))

    def features(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        rows = [torch.tensor(waveform) for waveform in waveforms]
        return {"x": nn.utils.rnn.pad_sequence(rows, batch_first=True)}

    def without_model(self, waveform: np.ndarray) -> float | None:
        return -1.0 if len(waveform) < 4 else None

    def forward(self, model: nn.Module, features: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        assert not model.training
        assert not torch.is_grad_enabled()
        self.shapes.append(tuple(features["x"].shape))
        self.models.append(model)
        return model(features["x"].sum(1, keepdim=True))

    def collect(self, tensors: torch.Tensor, batch: Batch) -> list[float]:
        assert len(batch.pieces) == len(batch.samples) == len(tensors)
        return tensors[:, 0].tolist()

    def join(self, pieces: list[Piece[Pooled, Part]], outputs: list[float], problem: str) -> Total:
        return Total([round(output, 3) for output in outputs], problem)


def ones(seconds: float, height: float = 1.0, pool: int = 0) -> Pooled:
    return Pooled(np.full(round(seconds * RATE), height, np.float32), seconds, pool=pool)


def wav(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def found(steps: Adding, sources, max_batch_seconds: float = 4.0, **options):
    return results(steps, sources, max_batch_seconds, torch.device("cpu"), **options)


def test_results_keep_the_order_and_pieces_are_joined():
    given = [ones(0.5), ones(2.3), ones(0.2, 2), ones(1.0)]
    assert list(found(Adding(), given)) == [
        Total([50.0], ""),
        Total([100.0, 100.0, 30.0], ""),
        Total([40.0], ""),
        Total([100.0], ""),
    ]


def test_batches_are_sorted_within_a_pool_and_stay_within_their_budget():
    steps = Adding()
    list(found(steps, [ones(n / 10) for n in (3, 9, 5, 8)] + [ones(0.4, pool=1)], max_batch_seconds=1.6))
    assert steps.shapes == [(1, 90), (2, 80), (1, 30), (1, 40)]
    steps = Adding()
    list(found(steps, [ones(n / 10) for n in (3, 9, 5, 8)], max_batch_seconds=1.8, pool_size=3))
    assert steps.shapes == [(2, 90), (1, 30), (1, 80)]


def test_a_short_piece_can_cost_more_than_its_length():
    steps = Adding()
    steps.least_seconds = 2.0
    list(found(steps, [ones(0.1), ones(0.3), ones(0.2)], max_batch_seconds=4))
    assert steps.shapes == [(2, 30), (1, 10)]


def test_batches_side_by_side_give_the_same():
    given = [ones(0.2 + seed % 5 / 3, seed) for seed in range(40)]
    expected = list(found(Adding(), given, max_batch_seconds=3, pool_size=8))
    steps, cores = Adding(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert list(found(steps, given, max_batch_seconds=3, pool_size=8)) == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(cores)
    assert 1 < len(set(map(id, steps.models))) <= 3


@pytest.mark.parametrize(("pools", "sizes"), [((0, 0, 0, 0), [2, 2]), ((0, 0, 0, 1), [1, 3])])
def test_a_single_pool_is_divided_among_the_cores(pools, sizes):
    """Batches of several pools are computed at once as they are."""
    steps, cores = Adding(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(found(steps, [ones(0.5, pool=pool) for pool in pools]))
    finally:
        torch.set_num_threads(cores)
    assert sorted(shape[0] for shape in steps.shapes) == sizes


def test_what_cannot_be_read_is_reported_in_its_place():
    good = np.ones(50, np.float32)
    given = [Pooled(wav(good), 0.5), Pooled(b"RIFF no such thing", 1.0), Pooled("/nowhere/a.wav", 2.0)]
    error = AudioError("empty", "nothing")
    all_of_them = list(found(Adding(), [*given, Pooled(error, 0.0), Pooled(wav(good), 0.5)]))
    assert [isinstance(one, AudioError) for one in all_of_them] == [False, True, True, True, False]
    assert all_of_them[0] == all_of_them[4] == Total([50.0], "")
    assert all_of_them[3] is error


def test_the_pieces_before_the_damage_are_kept():
    waveform = np.ones(350, np.float32)
    waveform[220] = np.nan
    (one,) = found(Adding(), [Pooled(wav(waveform), 3.5)])
    assert one.sums == [100.0, 100.0]
    assert one.problem.startswith("nothing was read beyond 2.0 s: ")


def test_the_last_piece_is_read_to_the_end_whatever_the_header_says():
    (one,) = found(Adding(), [Pooled(wav(np.ones(250, np.float32)), 2.2)])
    assert one.sums == [100.0, 100.0, 50.0]


def test_a_segment_is_that_part_of_its_file():
    file = wav(np.repeat(np.array([1, 2, 3, 4], np.float32), 100))
    assert list(found(Adding(), [Pooled(file, 2.0, start=1.0), Pooled(file, 0.5, start=3.0)])) == [
        Total([200.0, 300.0], ""),
        Total([200.0], ""),
    ]


def test_too_short_a_piece_never_reaches_the_model():
    steps = Adding()
    assert list(found(steps, [ones(0.03), ones(0.5)])) == [Total([-1.0], ""), Total([50.0], "")]
    assert steps.shapes == [(1, 50)]


def test_recordings_are_drawn_as_needed():
    drawn = itertools.count()
    endless = (ones(0.3 + 0.01 * (next(drawn) % 7)) for _ in itertools.count())
    assert len(list(islice(found(Adding(), endless, max_batch_seconds=1, pool_size=4), 9))) == 9
    assert next(drawn) < 60


def test_the_last_result_of_a_pool_does_not_wait_for_the_next_pool():
    received = threading.Event()

    class Waiting(Adding):
        def forward(self, model: nn.Module, features: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
            assert batch.pieces[0].source.pool == 0 or received.wait(60)
            return super().forward(model, features, batch)

    running = found(Waiting(), [ones(0.5), ones(0.6), ones(0.7, pool=1)])
    assert list(islice(running, 2)) == [Total([50.0], ""), Total([60.0], "")]
    received.set()
    assert list(running) == [Total([70.0], "")]


def test_training_mode_is_restored_even_if_the_loop_is_left():
    steps = Adding()
    running = found(steps, [ones(0.5), ones(0.6)])
    next(running)
    assert not steps.model.training
    running.close()
    assert steps.model.training


def test_progress_adds_up_to_the_audio():
    done: list[float] = []
    list(found(Adding(), [ones(0.5), ones(1.0), ones(2.0)], progress=done.append))
    assert sum(done) == pytest.approx(3.5)
