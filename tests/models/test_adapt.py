from __future__ import annotations

import copy
import logging

import pytest
import torch
from transformers import (
    ASTConfig,
    Data2VecAudioConfig,
    MoonshineConfig,
    MoonshineStreamingConfig,
    SEWDConfig,
    Speech2TextConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from sft_speech.errors import UserError
from sft_speech.models.adapt import (
    exact_padding,
    freeze_feature_encoder,
    given_masks,
    head_names,
    masks_are_on,
    prepare,
    set_regularization,
)
from sft_speech.models.spec_augment import FEATURES, TIME


def test_preparations_run_in_order_and_may_wrap_the_model():
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    seen = []

    def wrap(model):
        seen.append(model)
        return second

    def look(model):
        seen.append(model)
        return model

    assert prepare(first, [look, wrap, look]) is second
    assert seen == [first, first, second]
    assert prepare(first, []) is first


def test_each_says_in_one_line_what_it_did(tiny_model, caplog):
    model = tiny_model("wav2vec2-group", mask_time_prob=0.4, mask_feature_prob=0.0)
    with caplog.at_level(logging.INFO):
        prepared = prepare(model, [exact_padding, given_masks, freeze_feature_encoder])
    assert prepared is model
    assert caplog.messages == [
        "results do not depend on padding: exact adapter, convolutions, group norm",
        "SpecAugment: mask_time_prob 0.4 of length 4, mask_feature_prob 0 of length 10",
        "feature encoder frozen: 1,984 parameters",
    ]
    assert not any(one.requires_grad for one in model.wav2vec2.feature_extractor.parameters())
    assert not model.wav2vec2.feature_extractor._requires_grad
    assert head_names(model) == {"lm_head.weight", "lm_head.bias"}


def test_what_there_is_nothing_to_do_for_is_left_alone(tiny_model, caplog):
    model = tiny_model("wav2vec2-bert", mask_time_prob=0.0, mask_feature_prob=0.0)
    with caplog.at_level(logging.INFO):
        prepare(model, [given_masks, freeze_feature_encoder])
    assert caplog.messages == []
    assert all(one.requires_grad for one in model.parameters())


def test_masks_of_a_copy_are_its_own(tiny_model):
    model = given_masks(tiny_model("wav2vec2-layer", mask_time_prob=0.4))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.wav2vec2.masked_spec_embed.add_(1.0)
        masks = {TIME: torch.ones(1, 24, dtype=torch.bool), FEATURES: torch.zeros(1, 32, dtype=torch.bool)}
        one, other = model(torch.randn(1, 2000), **masks).logits, copied(torch.randn(1, 2000), **masks).logits
    assert not torch.allclose(one, other)


MASKED = {"mask_time_prob": 0.05, "mask_feature_prob": 0.0, "apply_spec_augment": True}


@pytest.mark.parametrize(
    ("own", "options", "expected"),
    [
        # the checkpoint's own
        ({}, {}, (0.05, 0.0, True)),
        ({"mask_time_prob": 0.0}, {}, (0.0, 0.0, False)),
        ({"apply_spec_augment": False}, {}, (0.05, 0.0, False)),
        ({"apply_spec_augment": False}, {"hidden_dropout": 0.2}, (0.05, 0.0, False)),
        # options
        ({}, {"mask_time_prob": 0.0}, (0.0, 0.0, False)),
        ({}, {"mask_time_prob": 0.65}, (0.65, 0.0, True)),
        ({}, {"mask_feature_prob": 0.25}, (0.05, 0.25, True)),
        ({"apply_spec_augment": False}, {"mask_time_prob": 0.5}, (0.5, 0.0, True)),
        # only what was asked for, where the checkpoint masks nothing
        ({"apply_spec_augment": False}, {"mask_feature_prob": 0.25}, (0.0, 0.25, True)),
        ({"apply_spec_augment": False}, {"mask_time_prob": 0.0}, (0.0, 0.0, False)),
    ],
)
@pytest.mark.parametrize("config_class", [Wav2Vec2Config, Wav2Vec2BertConfig])
def test_masks_are_the_checkpoints_unless_an_option_sets_them(config_class, own, options, expected):
    config = config_class(**MASKED | own)
    options = {"mask_time_prob": None, "mask_feature_prob": None, "mask_time_length": None} | options
    set_regularization(config, options)
    assert (config.mask_time_prob, config.mask_feature_prob, masks_are_on(config)) == expected
    if {"mask_time_prob", "mask_feature_prob"} & {name for name, value in options.items() if value is not None}:
        assert config.apply_spec_augment == expected[2]


def test_dropouts_are_the_checkpoints_unless_an_option_sets_them():
    config = Wav2Vec2Config(hidden_dropout=0.3, layerdrop=0.07)
    set_regularization(config, {"hidden_dropout": None, "layerdrop": 0.0})
    assert (config.hidden_dropout, config.layerdrop) == (0.3, 0.0)


def test_speech2text_is_masked_though_transformers_does_not():
    config = Speech2TextConfig()
    set_regularization(config, {"hidden_dropout": 0.3, "layerdrop": 0.2, "mask_time_prob": None})
    assert (config.dropout, config.encoder_layerdrop, config.decoder_layerdrop) == (0.3, 0.2, 0.2)
    assert not masks_are_on(config)
    set_regularization(config, {"mask_feature_prob": 0.1})
    assert masks_are_on(config)
    assert (config.mask_time_prob, config.mask_feature_prob, config.mask_feature_length) == (0.0, 0.1, 10)


def test_dropouts_of_encoder_and_decoder_are_set():
    config = MoonshineStreamingConfig()
    set_regularization(config, {"attention_dropout": 0.1})
    assert (config.attention_dropout, config.encoder_config.attention_dropout) == (0.1, 0.1)


def test_a_family_without_the_switch_has_one_then():
    config = Data2VecAudioConfig(mask_time_prob=0.05)
    assert masks_are_on(config)
    set_regularization(config, {"mask_time_prob": 0.0})
    assert not masks_are_on(config)


@pytest.mark.parametrize(
    ("config", "option", "family"),
    [
        (SEWDConfig(), {"layerdrop": 0.1}, "sew-d"),
        (WhisperConfig(), {"feat_proj_dropout": 0.0}, "whisper"),
        (MoonshineConfig(), {"hidden_dropout": 0.1}, "moonshine"),
        (MoonshineConfig(), {"mask_time_prob": 0.1}, "moonshine"),
        (ASTConfig(), {"mask_feature_length": 10}, "audio-spectrogram-transformer"),
    ],
)
def test_a_setting_that_the_family_lacks_is_refused(config, option, family):
    [name] = option
    with pytest.raises(UserError, match=f"{name} .*: a {family} model has no such setting.\n-> leave {name} out"):
        set_regularization(config, option)
    set_regularization(config, {name: None})
    assert not masks_are_on(config) or family == "sew-d"
