"""Linear layers by oneDNN compute what torch's do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sft_speech.models import linear
from sft_speech.models.linear import LEAST_ROWS, OneDnnLinear, use_faster_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def pair(bias: bool = True, trained: bool = True) -> tuple[nn.Linear, OneDnnLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias)
    plain.weight.requires_grad_(trained)
    other = OneDnnLinear(plain)
    other.weight = copy.deepcopy(plain.weight)
    other.bias = copy.deepcopy(plain.bias)  # type: ignore[assignment]
    return plain, other


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (0, 24), (3, 24), (LEAST_ROWS, 24), (4, LEAST_ROWS, 24)])
def test_values_and_gradients(shape: tuple[int, ...], bias: bool) -> None:
    plain, other = pair(bias)
    given = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(other(given), plain(given))
    first, second = given.clone().requires_grad_(), given.clone().requires_grad_()
    target = torch.randn(*shape[:-1], 40)
    expected, found = plain(first), other(second)
    torch.testing.assert_close(found, expected)
    (expected * target).sum().backward()
    (found * target).sum().backward()
    torch.testing.assert_close(second.grad, first.grad)
    torch.testing.assert_close(other.weight.grad, plain.weight.grad)
    if bias:
        torch.testing.assert_close(other.bias.grad, plain.bias.grad)


def test_frozen_weight_gets_no_gradient() -> None:
    plain, other = pair(trained=False)
    given = torch.randn(LEAST_ROWS, 24, requires_grad=True)
    other(given).sum().backward()
    assert other.weight.grad is None
    torch.testing.assert_close(given.grad, plain.weight.sum(0).expand(LEAST_ROWS, 24))


def test_autocast_is_obeyed() -> None:
    _, other = pair()
    with torch.autocast("cpu", torch.bfloat16):
        assert other(torch.randn(LEAST_ROWS, 24)).dtype == torch.bfloat16


@pytest.mark.parametrize("faster", [True, False])
def test_model_keeps_its_weights_and_names(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: faster)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24))
    before = dict(model.named_parameters())
    use_faster_linear(model.eval())
    assert [type(model[index]) for index in (0, 2)] == [OneDnnLinear if faster else nn.Linear] * 2
    assert {name: id(one) for name, one in model.named_parameters()} == {name: id(one) for name, one in before.items()}
    assert not model[0].training
