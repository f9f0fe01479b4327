"""A clip has the same logits, and teaches the same, alone and in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sft_speech.tasks.classification.checkpoint import load_to_finetune
from sft_speech.tasks.classification.collator import ClassificationCollator
from sft_speech.tasks.classification.labels import Labels
from sft_speech.tasks.classification.loss import ClassificationCriterion

KINDS = ["wav2vec2-group", "wav2vec2-layer", "wavlm", "data2vec", "wav2vec2-bert", "whisper", "ast", "convnet"]
DROPOUTS = ["hidden_dropout", "activation_dropout", "attention_dropout"]
LABELS = Labels(("a", "b", "c"))


@pytest.fixture(params=KINDS)
def checkpoint(request, tiny_encoder, settings):
    model = tiny_encoder(request.param)
    off = dict.fromkeys(["mask_time_prob", "feat_proj_dropout", "final_dropout", "layerdrop", *DROPOUTS], 0.0)
    config = settings(model, **({} if request.param in ("whisper", "ast", "convnet") else off))
    found = load_to_finetune(config, LABELS, longest=0.9)
    for module in found.model.modules():  # fresh norms would hide what leaks through padding
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    nn.init.normal_(
        found.model.classifier.weight
        if hasattr(found.model.classifier, "weight")
        else found.model.classifier.dense.weight
    )
    return found


@pytest.fixture
def utterances():
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, samples).astype(np.float32) for samples in (5000, 14000, 9000, 300)]
    return [{"id": str(n), "waveform": clip, "labels": [n % 3]} for n, clip in enumerate(clips)]


def logits(checkpoint, utterances):
    batch = ClassificationCollator(checkpoint)(utterances)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "seconds")}
    with torch.no_grad():
        return checkpoint.model.eval()(**inputs).logits


def test_logits_are_the_same_alone_and_in_a_batch(checkpoint, utterances):
    together = logits(checkpoint, utterances)
    alone = torch.cat([logits(checkpoint, [one]) for one in utterances])
    assert together.std(0).max() > 1e-3, "clips differ"
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def gradients(checkpoint, utterances, size: int) -> dict[str, torch.Tensor]:
    model, criterion = checkpoint.model.train(), ClassificationCriterion(weights=torch.tensor([0.5, 1.0, 2.0]))
    model.zero_grad()
    batches = [utterances[start : start + size] for start in range(0, len(utterances), size)]
    collate = ClassificationCollator(checkpoint)
    count = sum(criterion.count(collate(batch)) for batch in batches)
    for batch in batches:
        (criterion.loss(model, collate(batch)).total / count).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_are_the_same_however_a_batch_is_split(checkpoint, utterances):
    for module in checkpoint.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    checkpoint.model.config.update({"conformer_conv_dropout": 0.0})
    whole, halves, ones = (gradients(checkpoint, utterances, size) for size in (4, 2, 1))
    assert whole
    for name, gradient in whole.items():
        scale = gradient.abs().max().clamp(min=1e-4)
        assert (gradient - halves[name]).abs().max() < 1e-3 * scale, name
        assert (gradient - ones[name]).abs().max() < 1e-3 * scale, name
