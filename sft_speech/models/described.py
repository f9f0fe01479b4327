"""One line on what a run trains, at which rates and from which step on, and what it freezes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transformers import PreTrainedModel

from sft_speech.models.adapt import head_names
from sft_speech.models.adapter_files import LORA
from sft_speech.models.families import Family, family_of
from sft_speech.models.parts import depths_of


def describe(
    model: PreTrainedModel, learning_rate: float, layer_decay: float, starts: Mapping[str, int] | None = None
) -> str:
    """Return one line on what is trained (weights, share, learning rate, first step) and what is frozen.

    Args:
        starts: step from which weights are trained, by name; the others are trained from the start.
    """
    starts, family, head = starts or {}, family_of(model.config), head_names(model)
    prefix = f"{family.body_name(model)}."
    sizes = {name: one.numel() for name, one in model.named_parameters()}
    depths = depths_of(sizes, head, family)
    trained: dict[str, list[str]] = {part: [] for part in ("head", "decoder", "encoder")}
    frozen: dict[str, list[str]] = {}
    whole: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        part = ("LoRA of the " if LORA in name else "") + ("head" if name in head else family.stack_of(name))
        whole.setdefault(part, []).append(name)
        if parameter.requires_grad:
            trained.setdefault(part, []).append(name)
        else:
            module = "head" if name in head else name.removeprefix(prefix).split(".")[0]
            frozen.setdefault(module, []).append(name)
    total = sum(sizes.values())

    def share(names: Collection[str]) -> str:
        size = sum(sizes[name] for name in names)
        return f"{size:,} ({size / total:.1%})"

    described = []
    for part, names in trained.items():
        if names:
            which = "" if len(names) == len(whole[part]) else layers_in(names, whole[part], family)
            tied = " (also the embeddings)" if part == "head" and names[0].startswith(prefix) else ""
            rates = [learning_rate * layer_decay ** depths[name] for name in names]
            described.append(f"{part}{which}{tied} {share(names)} at {span(rates)}{steps(names, starts)}")
    frozen_parts = ", ".join(f"frozen {module} {share(names)}" for module, names in frozen.items())
    return "trained: " + ", ".join([*described, *filter(None, [frozen_parts])])


def span(rates: list[float]) -> str:
    """Return the highest rate, and the lowest if it differs."""
    low = f" down to {min(rates):.2g}" if min(rates) < max(rates) else ""
    return f"{max(rates):.3g}{low}"


def steps(names: Collection[str], starts: Mapping[str, int]) -> str:
    """Return from which step on weights are trained; "" if from the start."""
    found = sorted({starts.get(name, 0) for name in names})
    if found[-1] == 0:
        return ""
    if len(found) == 1:
        return f" from step {found[0]:,} on"
    return f" from the top down, step {found[0]:,} to {found[-1]:,}"


def layers_in(names: Collection[str], whole: Collection[str], family: Family) -> str:
    """Return which layers are trained completely, such as `` layers 8-11``, and whether other weights are as well."""
    layers: dict[int | None, list[str]] = {}
    for name in whole:
        layer = family.layer_of(name)
        layers.setdefault(layer.number if layer else None, []).append(name)
    full = sorted(number for number, own in layers.items() if number is not None and set(own) <= set(names))
    rest = set(names).difference(*(layers[number] for number in full))
    if not full:
        return " (a part of it)"
    if rest and len(full) == len(layers.keys() - {None}):
        return ""  # what else is frozen follows in the line
    ranges: list[list[int]] = []
    for number in full:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    listed = ", ".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else f"{one[0]}" for one in ranges)
    return f" layer{'s' if len(full) > 1 else ''} {listed}{' and other parts' if rest else ''}"
