"""Loss and gradient of an utterance are those of transformers, and do not depend on the others in its batch."""

from __future__ import annotations

import pytest
import torch

from sft_speech.models.exact.speecht5 import make_padding_exact
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.loss import IGNORED, SpectrogramCriterion, guided_attention, model_inputs

# (inputs, mel frames), unequal in both. One of the texts has an odd number of frames. The longest recording is not the
# one with the most frames.
TEXTS = [(3, 8), (9, 21), (5, 40), (12, 30), (1, 2)]
RECORDINGS = [(400, 8), (900, 21), (650, 40), (1300, 30)]


def utterances(from_audio=False):
    generator = torch.Generator().manual_seed(1)

    def inputs(length):
        if from_audio:
            return {"samples": torch.randn(length, generator=generator)}
        return {"tokens": torch.randint(4, 20, (length,), generator=generator).tolist()}

    return [
        inputs(length)
        | {
            "spectrogram": torch.randn(frames, 10, generator=generator),
            "speaker": torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0),
            "seconds": frames * 0.016,
        }
        for length, frames in (RECORDINGS if from_audio else TEXTS)
    ]


@pytest.fixture
def parts_of(tiny_tts, tiny_converter):
    def build(from_audio=False, **config):
        model = (tiny_converter if from_audio else tiny_tts)(**config).train()
        make_padding_exact(model)
        return model, SpectrogramCriterion(model), SpeechCollator(model.config, from_audio)

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


@pytest.mark.parametrize(
    ("from_audio", "config"),
    [
        (False, {"use_guided_attention_loss": True}),
        (False, {"use_guided_attention_loss": False}),
        (True, {"feat_extract_norm": "group"}),
        (True, {"feat_extract_norm": "layer"}),
    ],
)
def test_a_padded_batch_has_the_losses_and_gradients_of_its_utterances_alone(parts_of, from_audio, config):
    model, criterion, collate = parts_of(from_audio, **config)
    given = utterances(from_audio)
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


@pytest.mark.parametrize("from_audio", [False, True])
def test_an_empty_batch_adds_nothing(parts_of, from_audio):
    model, criterion, collate = parts_of(from_audio)
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


def test_the_encoder_of_plain_transformers_depends_on_the_padding(tiny_converter):
    model = tiny_converter().eval()
    collate = SpeechCollator(model.config, from_audio=True)
    given = utterances(from_audio=True)

    def predicted(batch):
        return model(**model_inputs(batch)).spectrogram[0, :8]

    alone, padded = predicted(collate(given[:1])), predicted(collate(given))
    assert (alone - padded).abs().max() > 1e-3
    make_padding_exact(model)
    assert (predicted(collate(given[:1])) - predicted(collate(given))).abs().max() < 1e-5


def test_predictions_without_padding_do_not_change(tiny_converter):
    model = tiny_converter().eval()
    batch = SpeechCollator(model.config, from_audio=True)(utterances(from_audio=True)[:1])
    before = model(**model_inputs(batch)).spectrogram
    make_padding_exact(model)
    assert torch.allclose(model(**model_inputs(batch)).spectrogram, before, atol=1e-6)


def test_collator_of_recordings(tiny_converter):
    collate = SpeechCollator(tiny_converter().config, from_audio=True)
    given = utterances(from_audio=True)[:2]
    batch = collate(given)
    assert batch["input_values"].shape == batch["attention_mask"].shape == (2, 900)
    assert batch["attention_mask"].sum(-1).tolist() == [400, 900]
    assert batch["input_values"][0, 400:].tolist() == [0] * 500
    assert torch.equal(batch["input_values"][1], given[1]["samples"])
    assert batch["encoder_steps"].tolist() == [39, 89]  # ((400 - 10) // 5 + 1 - 3) // 2 + 1
    assert "input_ids" not in batch


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
