"""A mean of the weights of a model at the start and at the end of fine-tuning, which forgets less than the end.

Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, arXiv:2109.01903.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sft_speech.errors import UserError
from sft_speech.files import sync
from sft_speech.models.adapter_files import LORA, plain_name

EXACT = torch.float32  # 16-bit weights are mixed in this type


def mean(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Return ``start + share * (end - start)`` in the type of ``end``; exactly one of them at 0 and at 1."""
    if share in (0.0, 1.0):
        return (end if share else start.to(end.dtype)).clone()
    wide = torch.promote_types(end.dtype, EXACT)
    return torch.lerp(start.to(wide), end.to(wide), share).to(end.dtype)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers that are saved with a model, each once; they share its memory."""
    names: dict[int, str] = {}
    found = model.state_dict(keep_vars=True)
    for name, tensor in found.items():
        names.setdefault(id(tensor), name)
    return {name: found[name].detach() for name in names.values()}


class Start:
    """The weights of a model at the start of a run, in a file.

    Args:
        file: safetensors.
        new: names of weights that did not exist at the start; they keep their trained values.
    """

    def __init__(self, file: Path, new: Collection[str] = ()) -> None:
        self.file, self.new = file, frozenset(new)

    @classmethod
    def save(cls, model: nn.Module, file: Path, new: Collection[str] = ()) -> Start:
        """Write the weights of a model, completely or not at all; of one with LoRA, those without the updates."""
        named = {plain_name(name): one for name, one in weights_of(model).items()}
        plain = {name: one for name, one in named.items() if LORA not in name}
        weights = {name: one.contiguous() for name, one in plain.items() if is_mixed(name, one, new)}
        part = file.with_name(f"{file.name}.part")
        save_file(weights, part)
        sync(part)
        part.replace(file)
        sync(file.parent)
        return cls(file, new)

    def weights(self, end: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the start of each weight that is mixed, one by one, on the CPU.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            with safe_open(self.file, "pt") as saved:
                for name in saved.keys():  # noqa: SIM118 (it is not a mapping)
                    if name not in end:
                        continue
                    start = saved.get_tensor(name)
                    if is_mixed(name, end[name], self.new) and start.shape == end[name].shape:
                        yield name, start
        except (SafetensorError, OSError) as error:
            why = f"the weights at the start of the run cannot be read ({error})"
            do = "remove the file if it is there, and resume with --resume_from_checkpoint auto"
            raise UserError(str(self.file), why, do) from error


def is_mixed(name: str, weights: Tensor, new: Collection[str]) -> bool:
    """Return whether a weight is mixed: counters, such as those of batch norms, and new weights are not."""
    return name not in new and weights.is_floating_point()


class Mixture:
    """A trained model whose weights can be mixed with those at the start, in place.

    Holds a copy of the trained weights on the CPU; of a sharded model, each process holds its own pieces.

    Args:
        model: the trained model.
        start: weights at the start.
    """

    def __init__(self, model: nn.Module, start: Start) -> None:
        self.weights, self.start = weights_of(model), start
        self.mixed = [name for name, _ in start.weights(self.weights)]
        self.end = {name: piece_of(self.weights[name]).to("cpu", copy=True) for name in self.mixed}

    @property
    def kept(self) -> list[str]:
        """Names of the floating-point weights that are not mixed."""
        mixed = set(self.mixed)
        return [name for name, one in self.weights.items() if one.is_floating_point() and name not in mixed]

    @torch.no_grad()
    def set(self, share: float) -> None:
        """Give the model this share of its trained weights."""
        if share == 1:
            for name, end in self.end.items():
                piece_of(self.weights[name]).copy_(end)
            return
        for name, start in self.start.weights(self.weights):
            weights = self.weights[name]
            if isinstance(weights, DTensor):  # every process reads the whole and takes its piece
                shared: Any = distribute_tensor(
                    start.to(weights.device), weights.device_mesh, weights.placements, src_data_rank=None
                )
                start = shared.to_local()
            piece = piece_of(weights)
            piece.copy_(mean(start.to(piece.device), self.end[name].to(piece.device), share))


def piece_of(weights: Tensor) -> Tensor:
    """Return the part of a sharded weight that this process holds; all of another one."""
    return weights.to_local() if isinstance(weights, DTensor) else weights
