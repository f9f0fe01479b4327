"""The loss of a batch, compared with PyTorch's own, and its special cases."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sft_speech.tasks.asr.ctc.loss import CtcCriterion, ctc_losses, unfitting

LABELS = torch.tensor([[1, 2, -100], [3, 3, -100], [-100, -100, -100]])
FRAMES = torch.tensor([4, 2, 4])  # the second one would need a third frame, for the blank between its equal labels


def logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_losses_are_those_of_each_utterance_alone():
    losses = ctc_losses(logits(), FRAMES, LABELS, blank=0)
    alone = torch.nn.functional.ctc_loss(
        logits()[0, :4].log_softmax(-1)[:, None], torch.tensor([[1, 2]]), [4], [2], reduction="sum"
    )
    assert losses.tolist() == pytest.approx([alone.item(), 0.0, 0.0])


def test_labels_that_do_not_fit_are_known():
    assert unfitting(FRAMES, LABELS).tolist() == [False, True, False]
    assert unfitting(torch.tensor([4, 3, 0]), LABELS).tolist() == [False, False, False]


def test_what_counts_as_zero_gives_no_gradient():
    given = logits().requires_grad_()
    ctc_losses(given, FRAMES, LABELS, blank=0).sum().backward()
    assert given.grad[0, :4].abs().sum() > 0
    assert given.grad[0, 4].abs().sum() == 0, "a frame of padding"
    assert given.grad[1:].abs().sum() == 0


def test_half_precision_is_summed_in_single():
    given = logits(torch.bfloat16)
    assert ctc_losses(given, FRAMES, LABELS, 0).dtype == torch.float32
    assert torch.equal(ctc_losses(given, FRAMES, LABELS, 0), ctc_losses(given.float(), FRAMES, LABELS, 0))


def test_task_counts_labels_and_blanks():
    best = torch.tensor([[0, 1, 0, 2, 0], [0, 3, 3, 3, 3], [0, 0, 0, 0, 0]])
    certain = torch.nn.functional.one_hot(best, 4).float() * 10
    batch = {"input_values": torch.zeros(3, 10), "labels": LABELS, "frames": FRAMES, "seconds": torch.tensor(1.5)}
    task = CtcCriterion(blank=0)
    summed = task.loss(lambda input_values: SimpleNamespace(logits=certain), batch)
    assert task.count(batch) == 4
    figures = {name: value.item() for name, value in summed.figures.items()}
    assert figures == {"frames": 10, "blanks": 2 + 1 + 4, "zeroed": 1, "seconds": 1.5}
    assert task.report(figures) == {"blank_share": 0.7, "zeroed_utterances": 1}
    assert task.report({**figures, "zeroed": 0}) == {"blank_share": 0.7}
