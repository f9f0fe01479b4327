"""The loss of a batch, compared with PyTorch's own, and its special cases."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sft_speech.tasks.asr.seq2seq.loss import Seq2SeqCriterion, token_losses

LABELS = torch.tensor([[-100, 1, 2, -100], [-100, 3, 0, 0], [-100] * 4])


def logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_losses_are_those_of_each_utterance_alone():
    losses = token_losses(logits(), LABELS)
    first = torch.nn.functional.cross_entropy(logits()[0, 1:3], torch.tensor([1, 2]), reduction="sum")
    second = torch.nn.functional.cross_entropy(logits()[1, 1:], torch.tensor([3, 0, 0]), reduction="sum")
    assert losses.tolist() == pytest.approx([first.item(), second.item(), 0.0])


def test_what_is_not_learned_gives_no_gradient():
    given = logits().requires_grad_()
    token_losses(given, LABELS, smoothing=0.1).sum().backward()
    assert (given.grad.abs().sum(-1) > 0).tolist() == (LABELS != -100).tolist()


def test_label_smoothing_spreads_a_share_of_the_target_evenly():
    """For logits of 0 every token has the probability 1/5; for one of log 2, it has 2/6 and the others 1/6."""
    flat = torch.zeros(1, 1, 5)
    assert token_losses(flat, torch.tensor([[3]]), 0.1).item() == pytest.approx(1.609438)  # ln 5
    steep = flat.clone()
    steep[0, 0, 3] = 0.693147  # ln 2
    # 0.9 + 0.1 / 5 of -ln(2/6), and 4 * 0.1 / 5 of -ln(1/6)
    assert token_losses(steep, torch.tensor([[3]]), 0.1).item() == pytest.approx(0.92 * 1.098612 + 0.08 * 1.791759)


def test_half_precision_is_summed_in_single():
    given = logits(torch.bfloat16)
    assert token_losses(given, LABELS).dtype == torch.float32
    assert torch.equal(token_losses(given, LABELS), token_losses(given.float(), LABELS))


def test_weights_of_utterances_are_factors_on_losses_and_counts():
    flat = torch.zeros(3, 4, 5)  # every label costs ln 5
    batch = {"decoder_input_ids": LABELS, "labels": LABELS, "seconds": torch.tensor(1.5)}
    criterion = Seq2SeqCriterion()

    def model(decoder_input_ids, use_cache):  # it is not given the weights
        return SimpleNamespace(logits=flat)

    counts = (LABELS != -100).sum(-1).tolist()
    assert (counts, criterion.count(batch)) == ([2, 3, 0], 5)
    batch["weights"] = torch.tensor([0.5, 2.0, 1.0])
    assert criterion.count(batch) == 7.0  # 0.5 * 2 + 2 * 3
    assert criterion.loss(model, batch).total.item() == pytest.approx(7 * 1.609438)
    assert criterion.loss(model, batch).each.tolist() == pytest.approx([1.609438, 6 * 1.609438, 0.0])


def test_the_criterion_counts_labels_and_those_that_were_most_probable():
    best = torch.tensor([[4, 1, 4, 4], [4, 3, 0, 4], [4, 4, 4, 4]])
    certain = torch.nn.functional.one_hot(best, 5).float() * 10
    batch = {"input_features": best, "decoder_input_ids": best, "labels": LABELS, "seconds": torch.tensor(1.5)}
    criterion = Seq2SeqCriterion()
    summed = criterion.loss(lambda input_features, decoder_input_ids, use_cache: SimpleNamespace(logits=certain), batch)
    assert criterion.count(batch) == 5
    figures = {name: value.item() for name, value in summed.figures.items()}
    assert figures == {"labels": 5, "correct": 3, "seconds": 1.5}
    assert criterion.report(figures) == {"label_accuracy": 0.6}
