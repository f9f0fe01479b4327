"""Means of weights: literal ones, exact at both ends, for every kind of tensor that a model holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from sft_speech.errors import UserError
from sft_speech.models.interpolate import Mixture, Start, mean, weights_of

NUMBERS = st.floats(-1e6, 1e6, width=32)


class Model(nn.Module):
    """A batch norm, a head, and an embedding that is tied to the output."""

    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(2), nn.Linear(2, 2)
        self.words, self.output = nn.Embedding(rows, 2), nn.Linear(2, rows, bias=False)
        self.output.weight = self.words.weight


def filled(value: float, rows: int = 3) -> Model:
    model = Model(rows)
    for weights in weights_of(model).values():
        weights.fill_(value)
    return model


def test_a_mean_is_literal():
    start, end = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 3.0, 2.0])
    assert mean(start, end, 0.25).tolist() == [0.25, 1.5, -1.0]
    assert mean(start, end, 0.5).tolist() == [0.5, 2.0, 0.0]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1), st.floats(0, 1))
def test_a_mean_is_between_its_ends_and_exact_at_them(pairs, share):
    start, end = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    slack = 1e-6 * (1 + torch.maximum(low.abs(), high.abs()))
    found = mean(start, end, share)
    assert ((found >= low - slack) & (found <= high + slack)).all()
    assert torch.equal(mean(start, end, 0.0), start)
    assert torch.equal(mean(start, end, 1.0), end)
    assert torch.equal(mean(end, end, share), end), "what training did not change stays bit for bit"


def test_16_bit_weights_are_mixed_in_float32():
    start, end = torch.tensor([1.0]).bfloat16(), torch.tensor([1.0078125]).bfloat16()  # neighbors
    assert mean(start, end, 0.75).dtype == torch.bfloat16
    assert mean(start, end, 0.75).item() == end.item()
    assert mean(start, end, 0.25).item() == start.item()


def test_what_is_mixed_and_what_is_not(tmp_path):
    """Statistics of batch norms are mixed; counters, new weights and those of another shape are not."""
    start = Start.save(filled(2.0), tmp_path / "start.safetensors", ["head.bias"])
    assert "norm.num_batches_tracked" not in load_file(start.file)
    model = filled(4.0, rows=5)
    model.norm.num_batches_tracked.fill_(7)
    mixture = Mixture(model, start)
    mixture.set(0.25)
    found = {name: weights.unique().tolist() for name, weights in weights_of(model).items()}
    assert found == {
        "norm.weight": [2.5],
        "norm.bias": [2.5],
        "norm.running_mean": [2.5],
        "norm.running_var": [2.5],
        "norm.num_batches_tracked": [7],
        "head.weight": [2.5],
        "head.bias": [4.0],
        "words.weight": [4.0],
    }
    assert mixture.kept == ["head.bias", "words.weight"]
    assert model.output.weight is model.words.weight


def test_shares_are_set_in_any_order_exactly(tmp_path):
    torch.manual_seed(0)
    first, last = Model(), Model()
    start = Start.save(first, tmp_path / "start.safetensors")
    ends = [{name: one.clone() for name, one in weights_of(model).items()} for model in (first, last)]
    mixture = Mixture(last, start)
    for share in (0.3, 1.0, 0.7, 0.0, 1.0):
        mixture.set(share)
        if share in (0.0, 1.0):
            assert all(torch.equal(one, ends[int(share)][name]) for name, one in weights_of(last).items())
    mixture.set(0.5)
    once = {name: one.clone() for name, one in weights_of(last).items()}
    mixture.set(0.9)
    mixture.set(0.5)
    assert all(torch.equal(one, once[name]) for name, one in weights_of(last).items())


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 40])
def test_a_start_that_cannot_be_read(tmp_path, content):
    file = Path(tmp_path, "start.safetensors")
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="the weights at the start of the run cannot be read"):
        Mixture(Model(), Start(file))
