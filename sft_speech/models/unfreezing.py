"""Parts of a model that are trained only from some optimizer step on: first the head, then one layer after another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from sft_speech.errors import UserError
from sft_speech.models.adapt import head_names
from sft_speech.models.families import family_of
from sft_speech.models.parts import ADAPTER, depths_of


def stages_of(model: PreTrainedModel) -> list[list[str]]:
    """Return the names of the trained weights, grouped from the output down.

    First the head; then each layer of the decoder from its top, what the decoder has outside its layers, and the same
    of the encoder. An adapter of the encoder belongs to its top layer. A head that is also the embeddings of the
    decoder belongs to what is outside the layers. What a stage lacks is skipped.
    """
    family, head = family_of(model.config), head_names(model)
    body = family.body_name(model)
    names = [name for name, _ in model.named_parameters()]
    # Weights of LoRA are within the layers, too.
    apart = {name for name in head if not (name.startswith(f"{body}.") and family.stack_of(name) == "decoder")}
    depths = depths_of(names, apart, family)

    def place(name: str) -> tuple[int, int]:
        if name in apart:
            return (0, 0)
        return (1 if family.stack_of(name) == "decoder" else 2, max(1, depths[name]))

    stages: dict[tuple[int, int], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            stages.setdefault(place(name), []).append(name)
    return [stages[key] for key in sorted(stages)]


def starts_of(model: PreTrainedModel, head_steps: int, every: int) -> dict[str, int]:
    """Return the optimizer step from which each trained weight is trained; without those trained from the start.

    Args:
        head_steps: steps that train only the head; 0: as many as ``every``.
        every: steps until the next stage is trained too (Howard and Ruder 2018, ULMFiT); 0: all from ``head_steps`` on.

    Raises:
        UserError: there is no head to train first.
    """
    if not (head_steps or every):
        return {}
    stages = stages_of(model)
    head_first = bool(stages) and bool(head_names(model).intersection(stages[0]))
    if head_steps and not head_first:
        raise UserError(
            f"freeze_encoder_steps {head_steps}", "no head is trained", "add head to train, or remove the option"
        )
    first = (head_steps or every) if head_first else every
    return {name: first + (number - 1) * every for number, stage in enumerate(stages) if number > 0 for name in stage}


class Unfreezing(TrainerCallback):
    """Trains each weight from its optimizer step on.

    The part of the body below the lowest layer in training runs without building a graph, in training mode, SpecAugment
    included. All weights keep ``requires_grad``, since DistributedDataParallel decides once which gradients it
    averages; the trainer gives every weight a gradient (see ``ExactTrainer.anchor``). Those of weights that are not
    trained yet are removed before they are clipped, and the optimizer passes over them and their state.

    Args:
        model: a model of transformers, before it is wrapped.
        starts: first step of weights by their name; the others are trained from the start.

    Attributes:
        last: step from which everything is trained.
    """

    def __init__(self, model: PreTrainedModel, starts: Mapping[str, int]) -> None:
        self.starts, self.last, self.step = starts, max(starts.values(), default=0), math.inf
        self.grad_was: list[bool] = []
        family = family_of(model.config)
        name, body = family.body_name(model), family.body_of(model)
        first: dict[str, float] = {}  # step from which a module is trained; "" stands for what is below the layers
        for weight, parameter in model.named_parameters():
            if not parameter.requires_grad or not weight.startswith(f"{name}." if name else ""):
                continue
            layer = family.layer_of(weight)
            if layer is not None:
                module = layer.module
            elif ADAPTER in weight:
                module = weight[: weight.index(ADAPTER) + len(ADAPTER) - 1]
            else:
                module = f"{name}.decoder" if family.stack_of(weight) == "decoder" else ""
            first[module] = min(first.get(module, math.inf), starts.get(weight, 0))
        self.opens = first.pop("", math.inf)
        for module, start in first.items():
            model.get_submodule(module).register_forward_pre_hook(partial(self._reach, start))
        body.register_forward_pre_hook(self._enter)
        body.register_forward_hook(self._leave, always_call=True)

    def _enter(self, _module: nn.Module, _args: Any) -> None:
        self.grad_was.append(torch.is_grad_enabled())
        if self.step < min(self.last, self.opens):
            torch.set_grad_enabled(False)

    def _reach(self, start: float, _module: nn.Module, _args: Any) -> None:
        """Build a graph from here on; `generate` also calls the encoder alone, outside the body."""
        if self.grad_was and self.step >= start:
            torch.set_grad_enabled(self.grad_was[-1])

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        torch.set_grad_enabled(self.grad_was.pop())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = math.inf

    def drop_gradients(self, model: nn.Module) -> None:
        """Remove the gradients of weights that are not trained yet, after a backward pass."""
        if self.step >= self.last:
            return
        for name, parameter in model.named_parameters():
            if self.step < self.starts.get(name, 0):
                parameter.grad = None
