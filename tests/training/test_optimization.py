"""Learning rates by step and by layer."""

from __future__ import annotations

import pytest

from sft_speech.models.families import FAMILIES
from sft_speech.models.parts import depths_of
from sft_speech.training.optimization import parameter_groups, tri_stage


def test_three_stages():
    factor = tri_stage(100, 0.1, 0.4, 0.05)
    assert [factor(step) for step in (0, 9, 10, 49)] == pytest.approx([1 / 11, 10 / 11, 1, 1])
    assert factor(75) == pytest.approx(0.05**0.5)
    assert factor(100) == factor(200) == pytest.approx(0.05)


def test_warm_up_in_steps_and_a_last_rate_of_zero():
    factor = tri_stage(10, 2, 0.0, 0.0)
    assert [factor(0), factor(1), factor(2)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factor(10) == pytest.approx(0.01)


def rates(names: list[str], decayed: tuple[str, ...] = ()) -> list[tuple[float, float, list[str]]]:
    settings = {"learning_rate": 1.0, "weight_decay": 0.1, "layer_decay": 0.5}
    depths = depths_of(names, {"lm_head.weight"}, FAMILIES["wav2vec2"])
    groups = parameter_groups([(name, name) for name in names], depths, decayed, **settings)
    return [(group["lr"], group["weight_decay"], group["params"]) for group in groups]


def test_the_learning_rate_falls_from_the_head_down():
    names = ["w.feature_projection.weight", "w.encoder.layers.0.weight", "w.encoder.layers.1.weight", "lm_head.weight"]
    assert rates(names) == [(0.5**depth, 0.0, [name]) for depth, name in enumerate(reversed(names))]


def test_other_things_named_layers_are_no_layers():
    """Convolutions of positions lie below the encoder's layers, adapters above them, adapters of languages within."""
    below = ["d.encoder.pos_conv_embed.layers.4.conv.weight", "d.feature_extractor.conv_layers.6.conv.weight"]
    names = [*below, "d.encoder.layers.0.adapter_layer.norm.weight", "d.adapter.layers.2.conv.weight", "lm_head.weight"]
    assert rates(names) == [(1.0, 0.0, names[3:]), (0.5, 0.0, [names[2]]), (0.25, 0.0, below)]


def test_weight_decay_has_groups_of_its_own():
    names = ["w.encoder.layers.0.bias", "w.encoder.layers.0.weight"]
    assert rates(names, decayed=(names[1],)) == [(0.5, 0.0, [names[0]]), (0.5, 0.1, [names[1]])]
