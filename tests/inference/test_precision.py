"""The precision of inference; CPUs with AMX are simulated, since bfloat16 computes on any."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sft_speech.inference import precision
from sft_speech.inference.precision import PreciseLinear, autocast, has_amx, with_precision

CPU = torch.device("cpu")


class Recognizer(nn.Module):
    """A body of a linear layer, a norm and a narrow convolution, and a head."""

    base_model_prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Conv1d(8, 8, 3, groups=2))
        self.lm_head = nn.Linear(8, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Recognizer().eval()


@pytest.fixture
def amx(monkeypatch):
    """A CPU with AMX, on which no model is too small."""
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    monkeypatch.setattr(precision, "LEAST_WEIGHTS", 1)


def test_without_amx_a_cpu_computes_in_float32(model, monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    monkeypatch.setattr(precision, "LEAST_WEIGHTS", 1)
    with autocast(model, CPU):
        assert not torch.is_autocast_enabled("cpu")
    assert with_precision(model, CPU) is model


def test_with_amx_a_cpu_computes_in_bfloat16_and_the_given_model_stays_as_it_is(model, amx):
    half = with_precision(model, CPU)
    assert half.body[0].weight.dtype == half.body[0].bias.dtype == torch.bfloat16
    assert half.body[1].weight is model.body[1].weight
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    with autocast(half, CPU):
        assert half.body[:2](torch.ones(1, 8)).dtype == torch.bfloat16
    with autocast(model, CPU):  # evaluation during training
        assert not torch.is_autocast_enabled("cpu")


def test_a_head_of_few_classes_stays_in_float32(model, amx):
    half = with_precision(model, CPU)
    states = torch.randn(3, 8).bfloat16()
    with autocast(half, CPU):
        logits = half.lm_head(states)
    assert isinstance(half.lm_head, PreciseLinear)
    assert torch.equal(logits, model.lm_head(states.float()))


def test_tiny_models_and_whoever_wants_float32_get_it(model, amx, monkeypatch):
    assert with_precision(model, CPU, "float32") is model
    monkeypatch.setattr(precision, "LEAST_WEIGHTS", 1000)
    assert with_precision(model, CPU) is model
    assert with_precision(model, CPU, "bfloat16").computes_in == torch.bfloat16


@pytest.mark.parametrize(
    ("isa", "flag", "expected"),
    [
        (None, True, True),
        ("AVX512_CORE_AMX", True, True),
        ("AVX512_CORE_BF16", True, False),  # forbidden to oneDNN
        (None, False, False),
    ],
)
def test_amx_is_used_if_the_processor_has_it_and_onednn_may(isa, flag, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": flag})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert has_amx() is expected
