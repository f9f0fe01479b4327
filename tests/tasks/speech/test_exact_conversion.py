"""Voice conversion: encoding and loss of a recording do not depend on the others in its batch."""

from __future__ import annotations

import pytest
import torch

from sft_speech.models.exact.speecht5 import make_padding_exact
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.loss import SpectrogramCriterion, model_inputs

# (samples, mel frames): unequal in both; the longest in one is not the longest in the other
SIZES = [(400, 8), (900, 21), (650, 40), (1300, 30)]


def utterances():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "samples": torch.randn(samples, generator=generator),
            "spectrogram": torch.randn(frames, 10, generator=generator),
            "speaker": torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0),
            "seconds": frames * 0.016,
        }
        for samples, frames in SIZES
    ]


@pytest.fixture(params=["group", "layer"])
def parts(request, tiny_converter):
    model = tiny_converter(feat_extract_norm=request.param).train()
    make_padding_exact(model)
    return model, SpectrogramCriterion(model), SpeechCollator(model.config, from_audio=True)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_a_padded_batch_has_the_losses_and_gradients_of_its_utterances_alone(parts):
    model, criterion, collate = parts
    given = utterances()
    alone = []
    for utterance in given:
        summed = criterion.loss(model, collate([utterance]))
        summed.total.backward()
        alone.append(summed.total.item())
    one_by_one = gradients(model)
    losses = criterion.losses(model, collate(given))
    assert losses.total.tolist() == pytest.approx(alone, rel=1e-4)
    losses.total.sum().backward()
    together = gradients(model)
    assert together.keys() == one_by_one.keys()
    largest = max(g.abs().max() for g in one_by_one.values())
    for name, gradient in together.items():
        assert torch.allclose(gradient, one_by_one[name], rtol=1e-3, atol=float(1e-5 * largest)), name


def test_plain_transformers_depends_on_the_padding(tiny_converter):
    model = tiny_converter().eval()
    collate = SpeechCollator(model.config, from_audio=True)
    given = utterances()

    def predicted(batch):
        return model(**model_inputs(batch)).spectrogram[0, :8]

    alone, padded = predicted(collate(given[:1])), predicted(collate(given))
    assert (alone - padded).abs().max() > 1e-3
    make_padding_exact(model)
    assert (predicted(collate(given[:1])) - predicted(collate(given))).abs().max() < 1e-5


def test_predictions_without_padding_do_not_change(tiny_converter):
    model = tiny_converter().eval()
    batch = SpeechCollator(model.config, from_audio=True)(utterances()[:1])
    before = model(**model_inputs(batch)).spectrogram
    make_padding_exact(model)
    assert torch.allclose(model(**model_inputs(batch)).spectrogram, before, atol=1e-6)


def test_an_empty_batch_adds_nothing(parts):
    model, criterion, collate = parts
    summed = criterion.loss(model, collate([None]))
    summed.total.backward()
    assert summed.total.item() == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(model).values())


def test_collator_on_literal_tensors(tiny_converter):
    collate = SpeechCollator(tiny_converter().config, from_audio=True)
    given = utterances()[:2]
    batch = collate(given)
    assert batch["input_values"].shape == batch["attention_mask"].shape == (2, 900)
    assert batch["attention_mask"].sum(-1).tolist() == [400, 900]
    assert batch["input_values"][0, 400:].tolist() == [0] * 500
    assert torch.equal(batch["input_values"][1], given[1]["samples"])
    assert batch["encoder_steps"].tolist() == [39, 89]  # ((400 - 10) // 5 + 1 - 3) // 2 + 1
    assert "input_ids" not in batch
