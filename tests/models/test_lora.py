"""LoRA in every family: which layers have it, that all of it is trained, and that merging changes nothing."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sft_speech.errors import UserError
from sft_speech.models.adapt import describe, head_names, prepare
from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.lora import choose_targets, lora_layers, merge, merged, preparations, short_names

BASIC = {"lora_rank": 4, "lora_alpha": None, "lora_dropout": 0.0, "lora_targets": [], "use_dora": False}
BASIC |= {"use_rslora": False, "adapter": None, "allow_pickle": False, "learning_rate": 1e-3, "model": "me/base"}


def options(**changes):
    return SimpleNamespace(**BASIC | changes)


def adapted(model, new_weights=(), **changes):
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


FAMILIES = (
    "wav2vec2-group wav2vec2-layer wav2vec2-adapter mms hubert wavlm wavlm-layer data2vec wav2vec2-bert conformer "
    "unispeech unispeech-sat parakeet lasr granite"
).split()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_update_of_a_ctc_model_is_trained_and_merging_changes_nothing(tiny_model, family, dora):
    model = make_padding_exact(tiny_model(family))
    before, names = model(**batch_of(model)).logits.detach(), set(model.state_dict())
    adapted(model, head_names(model), use_dora=dora)
    torch.testing.assert_close(model(**batch_of(model)).logits, before)
    randomize(model).train()
    (model(**batch_of(model)).logits.square().sum()).backward()
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == head_names(model)
    still = [name for name, one in model.named_parameters() if one.requires_grad and not one.grad.abs().sum() > 0]
    assert still == []
    unmerged = model.eval()(**batch_of(model)).logits.detach()
    assert not torch.allclose(unmerged, before, atol=1e-3)
    assert merge(model) is not None
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(**batch_of(model)).logits, unmerged, rtol=1e-4, atol=1e-4)
    assert merge(model) is None
