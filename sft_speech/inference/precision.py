"""The precision in which a model computes, and bfloat16 on CPUs with AMX.

AMX multiplies matrices of bfloat16 several times as fast as AVX-512 multiplies those of float32. Products round their
factors to bfloat16 and add up in float32; norms, softmax and the rest are as autocast has them. Two things stay in
float32: narrow grouped convolutions, which torch computes wrongly in bfloat16 there (`models/exact/lengths.py`), and
heads of few classes, since confidences are made of their logits and they cost next to nothing.

Evaluation during training does not call `with_precision`: on a CPU its figures do not depend on the machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sft_speech.inference.computing import replica
from sft_speech.models.exact.lengths import replace
from sft_speech.models.exported import ExportedModel

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "bfloat16"]

# A model with fewer weights computes in float32 on any CPU: its products are too small to gain anything.
LEAST_WEIGHTS = 1_000_000
FEW_CLASSES = 2048


def with_precision(
    model: Any, device: torch.device, wanted: Precision = "auto", on_gpu: torch.dtype | None = None
) -> Any:
    """Return a model that computes in a precision, for inference: the model itself, or a copy.

    A copy in bfloat16 for a CPU has its own weights of linear layers and plain convolutions, which are rounded once
    instead of in every product. Copies share all other weights with the model.

    Args:
        model: on its device.
        wanted: "auto" is bfloat16 on a CPU with AMX, float32 on any other, and ``on_gpu``.
        on_gpu: what "auto" is on a GPU; None: bfloat16 (float16 on a GPU without it).
    """
    if isinstance(model, ExportedModel):
        if wanted != "auto":
            logger.warning("an exported model computes in the precision that it was exported in")
        return model
    known = usual(device, on_gpu)
    dtype = known if wanted == "auto" else getattr(torch, wanted)
    if wanted == "auto" and device.type == "cpu" and has_amx() and is_large(model):
        dtype = torch.bfloat16
    if dtype == known:
        return model
    model = replica(model)
    model.computes_in = dtype
    if device.type == "cpu":
        for name, module in list(model.named_modules()):
            if is_head(model, name, module):
                replace(model, name, PreciseLinear(module))
            elif isinstance(module, nn.Linear) or type(module) in (nn.Conv1d, nn.Conv2d):
                for key, weight in list(module.named_parameters(recurse=False)):
                    setattr(module, key, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return model


class PreciseLinear(nn.Linear):
    """A linear layer that a CPU computes in float32, also under autocast.

    Args:
        old: the layer to replace.
    """

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features, old.bias is not None, device="meta")

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, O) for (B, I)."""
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def is_head(model: Any, name: str, module: nn.Module) -> bool:
    """Return whether a module is a linear layer of few classes outside of a model's body."""
    outside = "." not in name and name != getattr(model, "base_model_prefix", None)
    return outside and isinstance(module, nn.Linear) and module.out_features <= FEW_CLASSES


def autocast(
    model: nn.Module, device: torch.device, on_gpu: torch.dtype | None = None
) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a model computes: that of `with_precision`, or else the usual one of its device."""
    dtype = getattr(model, "computes_in", None) or usual(device, on_gpu)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def usual(device: torch.device, on_gpu: torch.dtype | None = None) -> torch.dtype:
    """Return float32 for a CPU, and for a GPU ``on_gpu``; None: bfloat16, or float16 if it lacks bfloat16."""
    if device.type != "cuda":
        return torch.float32
    if on_gpu is not None:
        return on_gpu
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def is_large(model: nn.Module) -> bool:
    """Return whether a model's matrix products are large enough to gain from bfloat16."""
    return sum(weight.numel() for weight in model.parameters()) >= LEAST_WEIGHTS


def compiles_shapes(model: nn.Module) -> bool:
    """Return whether a model from `with_precision` is slower with every new shape of a batch."""
    return getattr(model, "computes_in", None) == torch.bfloat16 and next(model.parameters()).device.type == "cpu"


def has_amx() -> bool:
    """Return whether oneDNN, which computes torch's products in bfloat16, uses AMX on this machine."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    allowed = limit in ("ALL", "DEFAULT") or "AMX" in limit
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # not in the first releases that are supported
    return allowed and torch.backends.mkldnn.is_available() and bool(capabilities.get("amx_bf16"))
