"""LoRA (Hu et al. 2021): low-rank updates beside the frozen weights of a model, by peft.

The layers are replaced in place. The class of the model, its forward pass and its ``generate`` stay, without peft's
wrapper, whose task types add arguments that speech models do not take (peft#1988). A weight ``NAME.weight`` becomes
``NAME.base_layer.weight`` until :func:`merge` restores the plain model.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_speech.errors import UserError
from sft_speech.models.adapt import Preparation
from sft_speech.models.adapter_files import Adapter, SavedAdapter, read_adapter
from sft_speech.models.exact.norms import use_running_statistics
from sft_speech.models.families import family_of
from sft_speech.models.linear import OneDnnLinear, use_faster_linear
from sft_speech.models.parts import Parts
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.lora import uses_lora

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"  # as in peft
LOW_RATE = 1e-4


def preparations(config: FinetuneConfig, new_weights: Collection[str]) -> list[Preparation]:
    """Return the preparation that gives a model the LoRA of a run; none if it is off.

    Args:
        config: options of the run.
        new_weights: names of the weights that are random at the start, and are therefore trained fully.

    Raises:
        UserError: the adapter to continue cannot be read, or has another rank; the preparation raises if a target
            matches no layer that takes LoRA, the rank is too large, or the adapter belongs to another base.
    """
    if not uses_lora(config):
        return []
    if config.adapter is None:
        return [partial(add_lora, config=config, new_weights=new_weights)]
    saved = read_adapter(config.adapter, allow_pickle=config.allow_pickle)
    if config.lora_rank not in (0, saved.rank):
        do = f"remove lora_rank, or start a new adapter on the merged model: sft-speech merge {config.adapter} -o DIR"
        raise UserError(f"lora_rank {config.lora_rank}", f"{config.adapter} has rank {saved.rank}", do)
    return [partial(continue_adapter, config=config, saved=saved, new_weights=new_weights)]


def add_lora(model: PreTrainedModel, config: FinetuneConfig, new_weights: Collection[str]) -> PreTrainedModel:
    """Add new low-rank updates to a model (a `Preparation`)."""
    from peft import LoraConfig

    fully = trained_fully(model, new_weights, config.train)
    targets = choose_targets(model, config.lora_targets, fully)
    for name in targets:
        layer: Any = model.get_submodule(name)
        least = min(layer.in_features, layer.out_features)
        if config.lora_rank > least:
            why = f"{name} is a layer of {layer.in_features} to {layer.out_features} features"
            raise UserError(f"lora_rank {config.lora_rank}", why, f"use at most {least}, or choose other lora_targets")
    if config.learning_rate < LOW_RATE:
        logger.warning("learning_rate %g is low for LoRA: about 10 times that of full fine-tuning is usual (1e-4 to "
                       "1e-3)", config.learning_rate)  # fmt: skip
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=short_names(model, targets),
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
    )
    return inject(model, lora, fully)


def continue_adapter(
    model: PreTrainedModel, config: FinetuneConfig, saved: SavedAdapter, new_weights: Collection[str]
) -> PreTrainedModel:
    """Give a model the updates of a saved adapter (a `Preparation`); all weights in its file are trained."""
    reasons = {name: why_not(model, name, set()) for name in saved.layers if saved.fits(model, name)}
    for name, why in reasons.items():
        if why is not None:
            raise UserError(f"adapter {saved.name}", f"{name} cannot be trained: {why}", "start a new adapter")
    model = load_adapter(model, saved, new_weights, config.train, config.lora_dropout)
    if saved.base and saved.base.rstrip("/").split("/")[-1] != config.model.rstrip("/").split("/")[-1]:
        logger.warning(
            "adapter %s was trained on %s, and this run starts from %s", saved.name, saved.base, config.model
        )
    return model


def load_adapter(
    model: PreTrainedModel,
    saved: SavedAdapter,
    new_weights: Collection[str] = (),
    parts: Collection[str] = (),
    dropout: float = 0.0,
) -> PreTrainedModel:
    """Give a model the updates and the other weights of a saved adapter.

    Args:
        new_weights, parts: see :func:`trained_fully`.

    Raises:
        UserError: the adapter belongs to another base, or a part cannot be trained.
    """
    from peft import set_peft_model_state_dict

    saved.check_base(model)
    own = dict(model.named_parameters(remove_duplicate=False))
    fully = {name for name in saved.weights if name in own} | trained_fully(model, new_weights, parts)
    try:
        inject(model, saved.lora_config(dropout), fully)
        result: Any = set_peft_model_state_dict(model, saved.weights)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise saved.of_another_base(str(error).splitlines()[-1].strip()) from error
    if result.unexpected_keys:
        raise saved.of_another_base(f"the model has no {result.unexpected_keys[0]}")
    return model


def inject(model: PreTrainedModel, lora: Any, fully: Collection[str]) -> PreTrainedModel:
    """Add the layers of a configuration of peft; train them and the named weights, and freeze all others."""
    model.requires_grad_(False)
    family = family_of(model.config)
    # Encoders that require the gradient of their input would run the backward pass through frozen convolutions.
    encoder: Any = family.feature_encoder_of(model)
    if hasattr(encoder, "_requires_grad"):
        encoder._requires_grad = False
    add_layers(model, lora)
    use_faster_linear(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if plain_name(name) in fully:
            parameter.requires_grad = True
    use_running_statistics(model, only_frozen=True)
    logger.info("%s", describe(model, lora))
    return model


def add_layers(model: Any, lora: Any, *, empty: bool = False) -> None:
    """Add the layers of a configuration of peft; ``empty``: without memory for their weights."""
    from peft import inject_adapter_in_model

    try:
        model.get_input_embeddings()
    except NotImplementedError:  # peft asks models with tied weights for them, and Granite Speech has none
        model.get_input_embeddings = nn.Identity
    inject_adapter_in_model(lora, model, low_cpu_mem_usage=empty)
    vars(model).pop("get_input_embeddings", None)


def trained_fully(model: PreTrainedModel, new_weights: Collection[str], parts: Collection[str]) -> set[str]:
    """Return the names of the weights that are trained beside LoRA, before it is added.

    Args:
        new_weights: names of the weights that are random at the start.
        parts: further parts, see :meth:`~sft_speech.models.parts.Parts.chosen`.

    Raises:
        UserError: the model has no such part, or nothing of it can be trained.
    """
    new = {name for name, _ in model.named_parameters(remove_duplicate=False)}.intersection(new_weights)
    return new | (Parts(model).trainable(parts) if parts else set())


def plain_name(name: str) -> str:
    """Return the name that a weight has without LoRA."""
    return name.replace(".base_layer.", ".")


def describe(model: PreTrainedModel, lora: Any) -> str:
    """Return one line on the layers that have LoRA and what else is trained."""
    trained = {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    updates = sum(size for name, size in trained.items() if ".lora_" in name)
    total = sum(one.numel() for one in model.parameters())
    layers = [name for name, _ in lora_layers(model)]
    ends = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in layers}))
    kinds = [name for name, on in (("DoRA", lora.use_dora), ("rsLoRA", lora.use_rslora)) if on]
    others = sorted({plain_name(name).rsplit(".", 1)[0] for name in trained if ".lora_" not in name})
    more = f"; trained fully: {', '.join(others)}" if others else ""
    return (
        f"{' and '.join(kinds) or 'LoRA'} of rank {lora.r}, alpha {lora.lora_alpha:g}, "
        f"on {len(layers)} layers ({ends}): {updates:,} weights, {updates / total:.1%} of all{more}"
    )


def choose_targets(model: PreTrainedModel, given: Iterable[str], fully: Collection[str]) -> list[str]:
    """Return the names of the layers that get LoRA.

    Args:
        given: ends of their names, or regular expressions for their whole names; empty: the family's default.
        fully: names of weights that are trained fully; their layers get no LoRA.

    Raises:
        UserError: a target matches no layer, or one that cannot have LoRA.
    """
    family, kind = family_of(model.config), model.config.model_type
    linear = [name for name, one in model.named_modules() if is_linear(one)]
    possible = [name for name in linear if why_not(model, name, fully) is None]
    chosen = {name for name in possible if re.search(family.lora_targets, name)} if not given else set()
    for target in given:
        if target == ALL_LINEAR:
            body = f"{family.body_name(model)}."
            chosen |= {name for name in possible if body == "." or name.startswith(body)}
            continue
        found = [name for name, _ in model.named_modules() if matches(target, name)]
        of_linear = [name for name in found if name in linear]
        for name in of_linear or found[:1]:
            if (why := why_not(model, name, fully)) is not None:
                do = f"choose others, such as {', '.join(ends_of(possible)[:4])}"
                raise UserError(f"lora_targets {target}", f"{name} cannot have LoRA: {why}", do)
        if not found:
            near = difflib.get_close_matches(target, [*ends_of(possible), *possible], 1)
            do = f"did you mean {near[0]}?" if near else f"choose from {', '.join(ends_of(possible))}"
            raise UserError(f"lora_targets {target}", f"no layer of this {kind} model has such a name", do)
        chosen.update(of_linear)
    if not chosen:
        why = f"this {kind} model has no linear layers in attention or feed-forward"
        raise UserError("lora_rank", why, "set lora_targets to other layers, or leave lora_rank out")
    return sorted(chosen)


def matches(target: str, name: str) -> bool:
    """Return whether a target is the end of a module's name, or a regular expression for all of it."""
    return name == target or name.endswith(f".{target}") or re.fullmatch(target, name) is not None


def why_not(model: PreTrainedModel, name: str, fully: Collection[str]) -> str | None:
    """Return why a module cannot have LoRA; None if it can."""
    module = model.get_submodule(name)
    if not is_linear(module):
        return f"it is a {type(module).__name__}, not a linear layer"
    if re.search(family_of(model.config).without_lora, name):
        return "the module around it reads its weight and does not call it"
    if f"{name}.weight" in fully:
        return "it is trained fully"
    ids = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
    return "it shares its weight with another layer" if ids[id(module.weight)] > 1 else None


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer, and not a derived one whose weights are used in another way."""
    return type(module) in (nn.Linear, OneDnnLinear)


def ends_of(names: Iterable[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def short_names(model: nn.Module, targets: Collection[str]) -> list[str]:
    """Return the ends of the names of layers if no other module has them, as in other adapters; else the names."""
    ends = ends_of(targets)
    same = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in ends}
    return ends if same == set(targets) else sorted(targets)


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the layers with LoRA by their names; none if the model has no adapter."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.lora import LoraLayer

    return [(name, one) for name, one in model.named_modules() if isinstance(one, LoraLayer)]


def merge(model: PreTrainedModel, trained: Collection[str] | None = None) -> Adapter | None:
    """Add the low-rank updates to the weights and make the model a plain one again; in place.

    Args:
        trained: names of all trained weights; None: those that require a gradient.

    Returns:
        The adapter as it was; None if the model has none.
    """
    layers = lora_layers(model)
    if not layers:
        return None
    if trained is None:
        trained = [name for name, one in model.named_parameters(remove_duplicate=False) if one.requires_grad]
    adapter = Adapter.of(model, trained)
    for name, layer in layers:
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    return adapter


def merged(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> tuple[Adapter | None, dict[str, Tensor]]:
    """Merge the gathered weights of a sharded model, which stays as it is.

    Returns:
        The adapter, None if there is none, and the weights of the plain model.
    """
    if not lora_layers(model):
        return None, dict(weights)
    config: Any = model.peft_config
    with torch.device("meta"):
        plain = type(model)(model.config)
    add_layers(plain, config["default"], empty=True)
    plain.load_state_dict(weights, strict=False, assign=True)
    plain.tie_weights()
    adapter = merge(plain, [name for name, one in model.named_parameters(remove_duplicate=False) if one.requires_grad])
    wanted = {plain_name(name) for name in weights}
    return adapter, {name: one for name, one in plain.state_dict().items() if name in wanted}
