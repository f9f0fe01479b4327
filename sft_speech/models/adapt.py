"""Which parts of a model are trained, and from when on."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

# "encoder." keeps out the convolutions of data2vec-audio (`encoder.pos_conv_embed.layers.0`) and adapters behind it.
LAYER = re.compile(r"\bencoder\.layers\.(\d+)\.")


def head_names(model: PreTrainedModel) -> set[str]:
    """Names of the parameters outside the pretrained body: the head."""
    body = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if not name.startswith(body)}


def freeze_feature_encoder(model: PreTrainedModel) -> None:
    """Freezes the convolutions over the waveform for good; a model on log-mel features has none, which is fine."""
    encoder = getattr(model.base_model, "feature_extractor", None)
    if isinstance(encoder, nn.Module):
        encoder.requires_grad_(False)
        # Encoders that ask for the gradient of their input, so that checkpointing works, would keep the backward pass
        # through the frozen convolutions alive.
        if hasattr(encoder, "_requires_grad"):
            setattr(encoder, "_requires_grad", False)  # noqa: B010 - of the libraries' own classes, unknown to nn.Module


class HeadFirst(TrainerCallback):
    """Trains only the head during the first ``steps`` optimizer steps (``freeze_finetune_updates`` of fairseq).

    The body runs without building a graph, in training mode, SpecAugment and all. Its parameters keep
    ``requires_grad``, since DistributedDataParallel decides once which parameters it averages; the trainer gives them
    an exact zero gradient meanwhile (see ``ExactTrainer.anchor``), removed before the optimizer could act on it.
    """

    def __init__(self, model: PreTrainedModel, steps: int) -> None:
        self.body, self.steps, self.frozen = model.base_model, steps, False
        self.grad_was: list[bool] = []
        self.body.register_forward_pre_hook(self._enter)
        self.body.register_forward_hook(self._leave, always_call=True)

    def _enter(self, _module: nn.Module, _args: Any) -> None:
        self.grad_was.append(torch.is_grad_enabled())
        if self.frozen:
            torch.set_grad_enabled(False)

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        torch.set_grad_enabled(self.grad_was.pop())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.frozen = state.global_step < self.steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.frozen:
            for parameter in self.body.parameters():
                parameter.grad = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.frozen = False


def describe(model: PreTrainedModel, learning_rate: float, layer_decay: float, head_first_steps: int) -> str:
    """One line on what is trained: parameters, share, learning rate; and what is frozen."""
    head = head_names(model)
    parts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = "head" if name in head else "encoder"
        if not parameter.requires_grad:
            part = "frozen " + (".".join(name.split(".")[1:2]) or name)
        parts.setdefault(part, []).append(parameter.numel())
    total = sum(sum(sizes) for sizes in parts.values())
    layers = len({match[1] for name, _ in model.named_parameters() if (match := LAYER.search(name))})
    said = []
    for part, sizes in sorted(parts.items(), key=lambda item: item[0].startswith("frozen")):
        line = f"{part} {sum(sizes):,} ({sum(sizes) / total:.1%})"
        if part == "head":
            line += f" at {learning_rate:g}"
        elif part == "encoder":
            low = f" down to {learning_rate * layer_decay ** (layers + 1):.2g}" if layer_decay < 1 else ""
            line += f" at {learning_rate * (layer_decay if layer_decay < 1 else 1):.3g}{low}"
            line += f" from step {head_first_steps:,} on" if head_first_steps else ""
        said.append(line)
    return "trained: " + ", ".join(said)
