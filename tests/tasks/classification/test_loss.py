from __future__ import annotations

import math

import pytest
import torch

from sft_speech.tasks.classification.loss import IGNORED, ClassificationCriterion


class Fixed(torch.nn.Module):
    """A model that answers with its inputs."""

    def forward(self, logits):
        return type("Output", (), {"logits": logits})


def batch(logits, labels):
    return {"logits": torch.tensor(logits), "labels": torch.tensor(labels), "seconds": torch.tensor(1.5)}


def test_one_label_per_clip():
    given = batch([[0.0, 0.0], [math.log(3), 0.0], [5.0, 0.0]], [0, 1, IGNORED])
    criterion = ClassificationCriterion()
    found = criterion.loss(Fixed(), given)
    assert found.total.item() == pytest.approx(math.log(2) + math.log(4))
    assert criterion.count(given) == 2
    assert {name: value.item() for name, value in found.figures.items()} == {
        "correct": 1,
        "utterances": 2,
        "seconds": 1.5,
    }
    assert criterion.report({"correct": 1.0, "utterances": 2.0}) == {"accuracy": 0.5}


def test_class_weights_are_factors():
    given = batch([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    found = ClassificationCriterion(weights=torch.tensor([0.5, 3.0], dtype=torch.float64)).loss(Fixed(), given)
    assert found.total.item() == pytest.approx(3.5 * math.log(2))


def test_several_labels_per_clip():
    given = batch([[math.log(3), 0.0], [4.0, -4.0], [9.0, 9.0]], [[1, 1], [1, 0], [IGNORED, IGNORED]])
    criterion = ClassificationCriterion(multi_label=True)
    found = criterion.loss(Fixed(), given)
    second = math.log(1 + math.exp(-4))
    assert found.total.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2 + second)
    assert criterion.count(given) == 2
    assert found.figures["correct"].item() == 1  # 0 is no more than the threshold, so the first clip lacks a label
