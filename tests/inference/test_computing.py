from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from sft_speech.inference.computing import ahead, on_cores, on_device, replica


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_results_are_those_of_the_batches_in_order(cores):
    model, before = model_of(), torch.get_num_threads()
    batches = [torch.randn(2, 4) for _ in range(20)]
    torch.set_num_threads(cores)
    try:
        found = list(on_cores(model, iter(batches), lambda batch: batch + 1, lambda model, batch: model(batch)))
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    also = list(on_device(model, iter(batches), lambda batch: batch + 1, lambda model, batch: model(batch)))
    for batch, one, two in zip(batches, found, also, strict=True):
        assert torch.equal(one[0], batch + 1)
        assert torch.allclose(one[1], model(batch + 1))
        assert torch.equal(two[0], one[0])
        assert torch.allclose(two[1], one[1])


def test_replicas_share_their_weights():
    model = model_of()
    copied = replica(model)
    assert copied[0] is not model[0]
    assert all(one is two for one, two in zip(copied.parameters(), model.parameters(), strict=True))
    assert all(one is two for one, two in zip(copied.buffers(), model.buffers(), strict=True))


def test_no_more_than_one_batch_waits():
    drawn = []

    def batches():
        for number in range(100):
            drawn.append(number)
            yield number

    given = ahead(2, lambda batch: batch, batches())
    assert [next(given) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(drawn) <= 5 + 3
    given.close()


def test_an_error_of_a_thread_comes_out_and_ends_them():
    def fail(batch):
        if batch == 3:
            raise ValueError("three")
        return batch

    given = ahead(2, fail, iter(range(10)))
    with pytest.raises(ValueError, match="three"):
        list(given)
    for thread in threading.enumerate():
        if thread.name.startswith("recognize"):
            thread.join(timeout=5)
            assert not thread.is_alive()
