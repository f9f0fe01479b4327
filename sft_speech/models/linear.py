"""Linear layers by oneDNN, for CPUs on which torch's default is slow.

On a CPU torch multiplies float32 matrices by Intel's MKL, which uses AVX-512 on Intel's processors only. oneDNN, which
torch also contains, uses it on AMD's too. The results are float32 products as well; they differ by rounding.

Legend: B any leading dimensions, R their product, I input features, O output features.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sft_speech.models.exact.lengths import replace

# Rows from which a product with its gradient is faster than MKL's (Zen 5); without a gradient it always was.
LEAST_ROWS = 32


def use_faster_linear(model: nn.Module) -> None:
    """Replace a model's linear layers if this machine computes on a CPU on which oneDNN is faster."""
    if not torch.accelerator.is_available() and onednn_is_faster():
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and name:
                replace(model, name, OneDnnLinear(module))


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether the CPU is one of AMD's with AVX-512."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"


class OneDnnLinear(nn.Linear):
    """A linear layer that oneDNN computes, if it is in float32 and on a CPU.

    Args:
        old: the layer to replace.
    """

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features, old.bias is not None, device="meta")

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, O) for (B, I)."""
        plain = input.device.type != "cpu" or input.dtype != torch.float32 or self.weight.dtype != torch.float32
        if plain or torch.is_autocast_enabled("cpu") or not input.numel() or torch.compiler.is_compiling():
            return super().forward(input)
        if not torch.is_grad_enabled():
            return product(input, self.weight, self.bias)
        if input.numel() < LEAST_ROWS * self.in_features:
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        return _Product.apply(rows, self.weight, self.bias).view(*input.shape[:-1], -1)


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return (B, O), the product of (B, I) with a weight (O, I), plus a bias (O,)."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return made


class _Product(torch.autograd.Function):
    """The product of (R, I) with a weight (O, I), and its gradients."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t().contiguous()) if of_input else None,
            product(grad.t().contiguous(), input.t().contiguous()) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )
