"""Checks of the options of LoRA, which need no model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError

if TYPE_CHECKING:
    from sft_speech.options.config import FinetuneConfig

# Options that describe a new adapter, with their defaults; a saved one has its own.
OF_A_NEW_ADAPTER: dict[str, Any] = {"lora_alpha": None, "lora_targets": [], "use_dora": False, "use_rslora": False}


def check_lora(config: FinetuneConfig) -> None:
    """Check the options of LoRA against each other.

    Raises:
        UserError: an option has no effect, contradicts another one, or is no regular expression.
    """
    changed = [name for name, default in OF_A_NEW_ADAPTER.items() if getattr(config, name) != default]
    if changed and config.adapter:
        why = "an adapter that is continued keeps its own"
        raise UserError(f"{changed[0]} and adapter", why, f"remove {changed[0]}")
    if (changed or config.lora_dropout) and not uses_lora(config):
        name = changed[0] if changed else "lora_dropout"
        raise UserError(f"{name} without lora_rank", "LoRA is off, so it has no effect", "set `lora_rank: 8` too")
    if config.lora_alpha == 0:
        raise UserError("lora_alpha 0", "the updates would have no effect", "set it to twice the rank, or to null")
    if not uses_lora(config):
        return
    name = "adapter" if config.adapter else "lora_rank"
    if config.from_scratch:
        why = "all weights but the updates would stay random"
        raise UserError(f"from_scratch and {name}", why, "remove one of them")
    if getattr(config, "freeze_encoder", False):
        why = "LoRA trains the encoder, freeze_encoder does not"
        raise UserError(f"freeze_encoder and {name}", why, "remove one of them")
    if config.hub_strategy != "end":
        why = "its checkpoints hold the updates apart, and cannot be loaded as models"
        raise UserError(
            f"hub_strategy {config.hub_strategy} and {name}", why, "remove hub_strategy: end is the default"
        )
    for target in config.lora_targets:
        try:
            re.compile(target)
        except re.error as error:
            why = f"it is not a regular expression ({error})"
            raise UserError(f"lora_targets {target}", why, "correct it, or give the name of a layer") from None


def uses_lora(config: FinetuneConfig) -> bool:
    """Return whether a run trains an adapter."""
    return config.lora_rank > 0 or config.adapter is not None
