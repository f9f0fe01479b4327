"""Loss and gradient of an utterance are those of transformers, and do not depend on the others in its batch."""

from __future__ import annotations

import pytest
import torch

from sft_speech.models.exact.speecht5 import make_padding_exact
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.loss import IGNORED, SpectrogramCriterion, guided_attention

# (text tokens, mel frames): unequal in both, one with an odd number of frames
SIZES = [(3, 8), (9, 21), (5, 40), (12, 30), (1, 2)]


def utterances(sizes=SIZES, bands=10, speaker=16):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "tokens": torch.randint(4, 20, (tokens,), generator=generator).tolist(),
            "spectrogram": torch.randn(frames, bands, generator=generator),
            "speaker": torch.nn.functional.normalize(torch.randn(speaker, generator=generator), dim=0),
            "seconds": frames * 0.016,
        }
        for tokens, frames in sizes
    ]


@pytest.fixture
def parts_of(tiny_tts):
    def build(**config):
        model = tiny_tts(**config).train()
        make_padding_exact(model)
        return model, SpectrogramCriterion(model), SpeechCollator(model.config)

    return build


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("reduction_factor", [1, 2])
def test_an_utterance_alone_has_the_loss_of_transformers(parts_of, reduction_factor):
    model, criterion, collate = parts_of(reduction_factor=reduction_factor)
    for utterance in utterances():
        batch = collate([utterance])
        losses = criterion.losses(model, batch)
        plain = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            decoder_attention_mask=torch.ones(batch["labels"].shape[:2]),
            speaker_embeddings=batch["speaker_embeddings"],
        ).loss
        assert losses.frames.item() == criterion.count(batch) == batch["labels"].shape[1]
        assert (losses.total / losses.frames).item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("guided", [True, False])
def test_a_padded_batch_has_the_losses_and_gradients_of_its_utterances_alone(parts_of, guided):
    model, criterion, collate = parts_of(use_guided_attention_loss=guided)
    given = utterances()
    alone = []
    for utterance in given:
        summed = criterion.loss(model, collate([utterance]))
        summed.total.backward()  # gradients accumulate
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


def test_the_loss_of_plain_transformers_depends_on_the_batch(tiny_tts):
    model = tiny_tts().train()
    collate = SpeechCollator(model.config)
    given = utterances()

    def loss(batch):
        return model(**{k: v for k, v in batch.items() if k != "seconds"}).loss.item()

    alone = [loss(collate([utterance])) for utterance in given]
    frames = [len(utterance["spectrogram"]) // 2 * 2 for utterance in given]
    weighted = sum(n * one for n, one in zip(frames, alone, strict=True)) / sum(frames)
    assert abs(loss(collate(given)) / weighted - 1) > 0.003


def test_predictions_do_not_depend_on_the_padding(parts_of):
    model, criterion, collate = parts_of()
    batch = collate(utterances())
    before = criterion.losses(model, batch).total
    padding = batch["decoder_attention_mask"] == 0
    batch["decoder_input_values"][padding] = 7.0
    batch["input_ids"][batch["attention_mask"] == 0] = 5
    assert torch.allclose(criterion.losses(model, batch).total, before, rtol=1e-5)


def test_generation_after_training_uses_every_frame(parts_of):
    model, criterion, collate = parts_of()
    batch = collate(utterances())
    frames = torch.randn(1, 60, 10)
    model.eval()
    fresh = model.speech_decoder_postnet.postnet(frames)
    criterion.losses(model, batch)
    assert torch.equal(model.speech_decoder_postnet.postnet(frames), fresh)


def test_batch_norms_are_trained_but_keep_their_statistics(parts_of):
    model, criterion, collate = parts_of()
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d))
    mean, weight = norm.running_mean.clone(), norm.weight
    criterion.loss(model, collate(utterances())).total.backward()
    assert weight.grad.abs().max() > 0
    assert torch.equal(norm.running_mean, mean)


def test_an_empty_batch_adds_nothing(parts_of):
    model, criterion, collate = parts_of()
    batch = collate([None, None])
    assert criterion.count(batch) == 0
    summed = criterion.loss(model, batch)
    summed.total.backward()
    assert summed.total.item() == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(model).values())


def test_collator_on_literal_tensors(parts_of):
    _, _, collate = parts_of(num_mel_bins=2, speaker_embedding_dim=2)
    first = {
        "tokens": [4, 5, 2],
        "spectrogram": torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4], [5, 5]]),
        "speaker": torch.tensor([1.0, 0]),
        "seconds": 0.08,
    }
    second = {
        "tokens": [6],
        "spectrogram": torch.tensor([[6.0, 6], [7, 7]]),
        "speaker": torch.tensor([0.0, 1]),
        "seconds": 0.032,
    }
    batch = collate([first, None, second])
    x = IGNORED
    assert batch["input_ids"].tolist() == [[4, 5, 2], [6, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"][..., 0].tolist() == [[1, 2, 3, 4], [6, 7, x, x]]  # the fifth frame is cut
    assert batch["decoder_input_values"][..., 1].tolist() == [[0, 2], [0, 7]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["speaker_embeddings"].tolist() == [[1, 0], [0, 1]]
    assert batch["seconds"].item() == pytest.approx(0.112)


def test_guided_attention_is_zero_on_the_diagonal_and_one_far_from_it():
    diagonal, reversed_ = torch.eye(50)[None, None], torch.eye(50).flip(0)[None, None]
    length = torch.tensor([50])
    cells = 50  # each row has one cell of weight 1; the mean is over 50 x 50
    assert guided_attention(diagonal, length, length, 0.4).item() == 0
    assert 0.3 / cells < guided_attention(reversed_, length, length, 0.4).item() < 1 / cells
    assert guided_attention(reversed_, length, length, 0.01).item() > 0.95 / cells


def test_parts_of_the_loss_are_reported_as_means_over_frames(parts_of):
    model, criterion, collate = parts_of()
    summed = criterion.loss(model, collate(utterances()))
    sums = {name: float(value) for name, value in summed.figures.items()}
    parts = criterion.report(sums)
    assert set(parts) == {"mel_loss_before_postnet", "mel_loss", "stop_loss", "attention_loss"}
    assert sum(parts.values()) == pytest.approx(summed.total.item() / sums["frames"], rel=1e-5)
