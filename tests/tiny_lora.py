"""LoRA on tiny models."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from sft_speech.models.adapt import prepare
from sft_speech.models.lora import preparations

BASIC = {"lora_rank": 4, "lora_alpha": None, "lora_dropout": 0.0, "lora_targets": [], "use_dora": False}
BASIC |= {"use_rslora": False, "adapter": None, "allow_pickle": False, "learning_rate": 1e-3, "model": "me/base"}
BASIC |= {"train": []}


def options(**changes):
    return SimpleNamespace(**BASIC | changes)


def adapted(model, new_weights=(), /, **changes):
    return prepare(model, preparations(options(**changes), new_weights))


def randomize(model):
    """Give the updates values, which start at zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            elif "lora_magnitude" in name:
                parameter.mul_(1.1)
    return model


def batch_of(model):
    """Return a batch of two clips, one of them padded."""
    torch.manual_seed(2)
    if model.main_input_name == "input_values":
        mask = torch.ones(2, 3000, dtype=torch.long)
        mask[1, 2000:] = 0
        return {"input_values": torch.randn(2, 3000) * mask, "attention_mask": mask}
    width = 64 if "granite" in model.config.model_type else 160 if "bert" in model.config.model_type else 16
    mask = torch.ones(2, 80, dtype=torch.long)
    mask[1, 50:] = 0
    return {"input_features": torch.randn(2, 80, width) * mask[..., None], "attention_mask": mask}
