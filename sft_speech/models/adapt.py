"""Preparation of a model for training: regularization, exact padding, masks, freezing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from sft_speech.errors import UserError
from sft_speech.models.exact import encoders, speecht5
from sft_speech.models.families import family_of
from sft_speech.models.spec_augment import take_given_masks

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=PreTrainedModel)

MASK_PROBABILITIES = frozenset({"mask_time_prob", "mask_feature_prob"})
# Settings of models that have none, because transformers does not mask their input (Speech2Text), but we do.
UNMASKED = {"mask_time_prob": 0.0, "mask_time_length": 10, "mask_feature_prob": 0.0, "mask_feature_length": 10}

# A step between loading and training that changes or wraps a model and logs one line about it.
Preparation = Callable[[PreTrainedModel], PreTrainedModel]


def prepare(model: Model, preparations: Iterable[Preparation]) -> Model:
    """Apply a run's preparations in order, and return the model to train."""
    prepared: Any = model
    for preparation in preparations:
        prepared = preparation(prepared)
    return prepared


def exact_padding(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model's results independent of padding (a `Preparation`); see :mod:`sft_speech.models.exact`."""
    family = family_of(model.config)
    speech = "postnet" in family.leaks
    model = speecht5.make_padding_exact(model) if speech else encoders.make_padding_exact(model)
    if family.leaks:
        logger.info("results do not depend on padding: exact %s", ", ".join(sorted(family.leaks)))
    return model


def given_masks(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model use the masks in its batches, if its configuration masks anything (a `Preparation`)."""
    config: Any = model.config
    if masks_are_on(config):
        take_given_masks(model)
        logger.info(
            "SpecAugment: mask_time_prob %g of length %d, mask_feature_prob %g of length %d",
            *(config.mask_time_prob, config.mask_time_length, config.mask_feature_prob, config.mask_feature_length),
        )
    return model


def freeze_feature_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze the convolutions over the waveform for the whole run, if the model has them (a `Preparation`)."""
    encoder = family_of(model.config).feature_encoder_of(model)
    if encoder is not None:
        encoder.requires_grad_(False)
        # Encoders that require the gradient of their input, for gradient checkpointing, would otherwise still run the
        # backward pass through the frozen convolutions.
        if hasattr(encoder, "_requires_grad"):
            setattr(encoder, "_requires_grad", False)  # noqa: B010 - unknown to nn.Module
        logger.info("feature encoder frozen: %s parameters", f"{sum(one.numel() for one in encoder.parameters()):,}")
    return model


def set_regularization(config: PreTrainedConfig, options: Mapping[str, Any]) -> None:
    """Set a run's dropouts and masks; options that are None keep the checkpoint's values.

    A mask probability that is set applies even if the checkpoint's ``apply_spec_augment`` is off (as in w2v-bert-2.0);
    the other one keeps the checkpoint's value, or becomes 0 if ``apply_spec_augment`` was off. Afterwards
    ``apply_spec_augment`` tells whether anything is masked.

    Args:
        config: configuration of the model, before it is built.
        options: values by name, such as ``mask_time_prob``.

    Raises:
        UserError: the family has no such setting.
    """
    given = {name: value for name, value in options.items() if value is not None}
    family = family_of(config)
    if family.spec_augment == "input" and any(name.startswith("mask_") for name in given):
        config.update({name: value for name, value in UNMASKED.items() if not hasattr(config, name)})
    for name, value in given.items():
        own = family.settings.get(name, (name,))
        # Some models have the settings of their encoder in a configuration of its own, too.
        parts: tuple[Any, ...] = (config, getattr(config, "encoder_config", None))
        having = [part for part in parts if all(hasattr(part, one) for one in own)]
        if not having or (name.startswith("mask_") and not family.spec_augment):
            why = f"a {config.model_type} model has no such setting"
            raise UserError(f"{name} {value}", why, f"leave {name} out, or set it to null")
        if name in MASK_PROBABILITIES and not getattr(config, "apply_spec_augment", True):
            for other in MASK_PROBABILITIES - given.keys():
                setattr(config, other, 0.0)
        for part in having:
            part.update(dict.fromkeys(own, value))
    if MASK_PROBABILITIES & given.keys():
        on = any(getattr(config, name, 0.0) > 0 for name in MASK_PROBABILITIES)
        config.update({"apply_spec_augment": on})


def masks_are_on(config: PreTrainedConfig) -> bool:
    """Return whether a model of this configuration masks anything in training (SpecAugment)."""
    if not (family_of(config).spec_augment and getattr(config, "apply_spec_augment", True)):
        return False
    return any(getattr(config, name, 0.0) > 0 for name in MASK_PROBABILITIES)


def head_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the parameters outside the pretrained body: the head's, shared with the body or not."""
    body = family_of(model.config).body_name(model)
    named = model.named_parameters(remove_duplicate=False)
    head = {id(parameter) for name, parameter in named if body and not name.startswith(f"{body}.")}
    return {name for name, parameter in model.named_parameters() if id(parameter) in head}


class HeadFirst(TrainerCallback):
    """Trains only the head during the first ``steps`` optimizer steps (``freeze_finetune_updates`` of fairseq).

    The body runs without building a graph, in training mode, SpecAugment included. Its parameters keep
    ``requires_grad``, since DistributedDataParallel decides once which parameters it averages; meanwhile the trainer
    gives them a gradient of exactly zero (see ``ExactTrainer.anchor``), removed before the optimizer acts on it.
    """

    def __init__(self, model: PreTrainedModel, steps: int) -> None:
        self.body, self.steps, self.frozen = family_of(model.config).body_of(model), steps, False
        self.shared = {name.removeprefix(f"{family_of(model.config).body_name(model)}.") for name in head_names(model)}
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
            for name, parameter in self.body.named_parameters():
                if name not in self.shared:
                    parameter.grad = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.frozen = False


def describe(model: PreTrainedModel, learning_rate: float, layer_decay: float, head_first_steps: int) -> str:
    """Return one line on what is trained (parameters, share, learning rate) and what is frozen."""
    head, layer_of = head_names(model), family_of(model.config).layer_of
    parts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = "head" if name in head else "decoder" if ".decoder." in name else "encoder"
        part = f"LoRA of the {part}" if ".lora_" in name else part
        if not parameter.requires_grad:
            part = "frozen " + ("head" if name in head else ".".join(name.split(".")[1:2]) or name)
        parts.setdefault(part, []).append(parameter.numel())
    total = sum(sum(sizes) for sizes in parts.values())
    layers = len({layer_of(name) for name, _ in model.named_parameters()} - {None})
    described = []
    for part, sizes in sorted(parts.items(), key=lambda item: item[0].startswith("frozen")):
        line = f"{part} {sum(sizes):,} ({sum(sizes) / total:.1%})"
        if part == "head":
            line += f" at {learning_rate:g}"
        elif not part.startswith("frozen"):
            low = f" down to {learning_rate * layer_decay ** (layers + 1):.2g}" if layer_decay < 1 else ""
            line += f" at {learning_rate * (layer_decay if layer_decay < 1 else 1):.3g}{low}"
            line += f" from step {head_first_steps:,} on" if head_first_steps else ""
        described.append(line)
    return "trained: " + ", ".join(described)
