"""The loss against that of transformers, given the same masks, negatives and noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_pretraining import plain_model, tiny_checkpoint
from transformers import TrainerControl, TrainerState

from sft_speech.tasks.pretraining import loss
from sft_speech.tasks.pretraining.loss import PretrainingCriterion
from sft_speech.tasks.pretraining.progress import Collapse, GumbelTemperature
from sft_speech.tasks.pretraining.targets import PretrainingCollator


def batch_of(checkpoint, lengths=(8000, 8000, 8000), noisy=True):
    targets, rng = checkpoint.targets(0.5, 4, 6), np.random.default_rng(0)
    collate = PretrainingCollator(checkpoint.front_end.features, checkpoint.front_end.frames, 16000, targets)
    utterances = [
        {"waveform": rng.normal(size=n).astype(np.float32), **targets.draw(n, (0, number), noisy)}
        for number, n in enumerate(lengths)
    ]
    return collate(utterances), utterances


def negatives_of_transformers(utterances) -> torch.Tensor:
    """Return (B, T, K) places among all B x T frames."""
    frames = len(utterances[0]["mask"])
    found = np.zeros((len(utterances), frames, 6), int)
    for number, utterance in enumerate(utterances):
        masked = np.flatnonzero(utterance["mask"])
        found[number, masked] = masked[utterance["negatives"]]
        found[number] += number * frames
    return torch.from_numpy(found)


@pytest.mark.parametrize("model_type", ["wav2vec2", "wav2vec2-conformer"])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_that_of_transformers(model_type, training, monkeypatch):
    checkpoint, plain = tiny_checkpoint(model_type), plain_model(model_type)
    batch, utterances = batch_of(checkpoint, noisy=training)
    noise = torch.zeros(3, batch["mask"].shape[1], 2, 5)
    if training:
        for row, utterance in zip(noise, utterances, strict=True):
            row[torch.from_numpy(utterance["mask"])] = torch.from_numpy(utterance["noise"])
    ours, temperature = noise.view(-1, 5), 0.7

    def gumbel_softmax(logits, tau, hard):
        soft = ((logits + ours) / tau).softmax(-1)
        one = torch.nn.functional.one_hot(soft.argmax(-1), 5)
        return one - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)
    plain.set_gumbel_temperature(temperature)
    plain.config.diversity_loss_weight = 0.3
    for model in (plain, checkpoint.model):
        for name, module in model.named_modules():
            module.train(training and "batch_norm" not in name)
    theirs = plain(
        batch["input_values"],
        batch["attention_mask"],
        batch["mask"],
        negatives_of_transformers(utterances),
    )
    criterion = PretrainingCriterion(0.1, 0.3, 0.0)
    criterion.gumbel_temperature = temperature
    found = criterion.loss(checkpoint.model, batch)
    masked = int(batch["mask"].sum())
    assert criterion.count(batch) == masked
    assert found.figures["contrastive"].item() == pytest.approx(theirs.contrastive_loss.item(), rel=1e-4)
    if training:  # otherwise transformers takes the distribution of codes used
        assert found.total.item() == pytest.approx(theirs.loss.item(), rel=1e-4)
        theirs.loss.backward()
        found.total.backward()
        own = dict(checkpoint.model.named_parameters())
        for name, parameter in plain.named_parameters():
            if parameter.grad is not None:
                assert own[name].grad == pytest.approx(parameter.grad, rel=1e-3, abs=1e-3), name


def test_an_utterance_alone_and_in_a_batch():
    checkpoint = tiny_checkpoint(feat_extract_norm="group")
    criterion = PretrainingCriterion(0.1, 0.0, 3.0)
    together, utterances = batch_of(checkpoint, (3000, 8000))
    collate = PretrainingCollator(
        checkpoint.front_end.features, checkpoint.front_end.frames, 16000, checkpoint.targets(0.5, 4, 6)
    )
    alone = [criterion.loss(checkpoint.model, collate([one])) for one in utterances]
    both = criterion.loss(checkpoint.model, together).figures
    for name in ("contrastive", "correct", "squares", "frames", "masked"):
        assert float(both[name]) == pytest.approx(sum(float(one.figures[name]) for one in alone), rel=1e-5), name


def test_the_penalty_is_the_mean_square_of_own_frames():
    checkpoint = tiny_checkpoint()
    batch, _ = batch_of(checkpoint, (8000, 3000))
    criterion = PretrainingCriterion(0.1, 0.0, 3.0)
    found = criterion.loss(checkpoint.model, batch)
    values = [
        checkpoint.model.wav2vec2.feature_extractor(batch["input_values"][row : row + 1, :n]).square()
        for row, n in ((0, 8000), (1, 3000))
    ]
    mean = sum(one.sum() for one in values) / sum(one.numel() for one in values)
    penalty = found.total - found.figures["contrastive"]
    assert penalty.item() / criterion.count(batch) == pytest.approx(3 * mean.item(), rel=1e-4)


def test_the_contrastive_loss_of_one_frame():
    """Cosines 1 to the target, 0 and -1 to the negatives, at temperature 0.5."""
    predicted = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    quantized = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])
    codes, negatives = torch.tensor([[[0], [1], [2]]]), torch.tensor([[[1, 2], [0, 2], [0, 1]]])
    losses, right, same = loss.contrastive(predicted, quantized, codes, negatives, 0.5)
    assert losses[0, 0].item() == pytest.approx(math.log(math.exp(2) + 1 + math.exp(-2)) - 2)
    assert losses[0, 1].item() == pytest.approx(math.log(math.exp(2) + 1 + math.exp(-2)))
    assert right.tolist() == [[True, False, False]]
    assert same.tolist() == [[0, 0, 0]]
    codes[0, 1] = 0  # now the first negative has the codes of the target
    losses, _, same = loss.contrastive(predicted, quantized, codes, negatives, 0.5)
    assert losses[0, 0].item() == pytest.approx(math.log(math.exp(2) + math.exp(-2)) - 2, rel=1e-4)
    assert same.tolist() == [[1, 1, 0]]


def test_perplexity_and_diversity():
    used = torch.tensor([[2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert loss.perplexities(used).tolist() == pytest.approx([2.0, 4.0])
    assert loss.diversity(used).item() == pytest.approx(1 - 6 / 8)
    assert loss.perplexities(torch.zeros(1, 4)).tolist() == [1.0]


def test_the_slope_is_the_derivative():
    logits = torch.randn(30, 2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sums = logits.softmax(-1).sum(0)
    (expected,) = torch.autograd.grad(loss.diversity(sums), logits, retain_graph=True)
    (found,) = torch.autograd.grad((loss.diversity_slope(sums.detach()) * sums).sum() / 30, logits)
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_temperature_falls_geometrically():
    temperature = GumbelTemperature(PretrainingCriterion(0.1, 0.1, 0.0), 2.0, 0.5, 0.5)
    assert [temperature.at(step, 100) for step in (0, 25, 50, 99)] == pytest.approx([2.0, 1.0, 0.5, 0.5])
    assert GumbelTemperature(PretrainingCriterion(0.1, 0.1, 0.0), 0.5, 0.5, 0.0).at(0, 100) == 0.5


@pytest.mark.parametrize(("perplexity", "same", "warned"), [(3.9, 0.1, True), (40.0, 0.6, True), (40.0, 0.1, False)])
def test_collapse_is_said_once(caplog, perplexity, same, warned):
    collapse, arguments = Collapse(groups=2), type("Arguments", (), {"learning_rate": 1e-3})
    logs = {"code_perplexity": perplexity, "same_negatives": same, "accuracy": 1.0}
    for step in range(6):
        collapse.on_log(arguments, TrainerState(global_step=step, is_world_process_zero=True), TrainerControl(), logs)
        assert bool(caplog.records) == (warned and step >= 2)
    assert len(caplog.records) == warned
    if warned:
        assert "the codebook has collapsed at step 2" in caplog.text
        assert "larger diversity_loss_weight" in caplog.text
