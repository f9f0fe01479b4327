"""Masks that depend on the utterance alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2Config

from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.spec_augment import FEATURES, TIME, SpecAugment, collated, take_given_masks, with_masks
from sft_speech.tasks.asr.ctc.loss import CtcCriterion

FAMILIES = ["wav2vec2-group", "wav2vec2-adapter", "hubert", "wavlm", "data2vec", "wav2vec2-bert", "conformer"]
NO_DROPOUT = dict.fromkeys(
    ("attention_dropout", "hidden_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout",
     "conformer_conv_dropout"), 0.0
)  # fmt: skip
MASKING = {"mask_time_prob": 0.4, "mask_time_length": 4, "mask_feature_prob": 0.2, "mask_feature_length": 3}


def drawing(frames=lambda samples: samples // 320, **keys):
    return SpecAugment(Wav2Vec2Config(hidden_size=32, **MASKING | keys), frames, seed=3)


@given(st.integers(0, 400), st.integers(0, 50), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_masks_are_of_the_own_frames_and_drawn_from_seed_epoch_and_utterance(frames, epoch, index):
    draw = drawing()
    before = np.random.get_state()[1].copy()
    time, features = draw(frames * 320, epoch, index)
    assert len(time) == max(frames, 1)
    assert len(features) == 32
    assert np.array_equal(time, draw(frames * 320, epoch, index)[0])
    assert np.array_equal(before, np.random.get_state()[1])
    if frames < 4:
        assert not time.any()
    elif time.any():  # spans of four, which may overlap
        edges = np.flatnonzero(np.diff(np.concatenate([[0], time, [0]])))
        assert (edges[1::2] - edges[::2]).min() >= 4


def test_epochs_and_utterances_differ_and_the_share_is_that_of_the_configuration():
    draw = drawing()
    drawn = [draw(500 * 320, epoch, index)[0] for epoch in range(4) for index in range(25)]
    assert len({mask.tobytes() for mask in drawn}) == 100
    # 50 of 497 places where a span of 4 may start: a frame is free where none of the 4 that reach it is taken.
    assert np.mean(drawn) == pytest.approx(1 - (1 - 50 / 497) ** 4, abs=0.006)
    assert not drawing(mask_time_prob=0.0)(500 * 320, 0, 0)[0].any()


def test_collator_on_literal_masks():
    long, short = (np.array([1, 0, 1], bool), np.array([0, 1], bool)), (np.array([1], bool), np.array([1, 0], bool))
    batch = collated([long, short])
    assert batch[TIME].tolist() == [[True, False, True], [True, False, False]]
    assert batch[FEATURES].tolist() == [[False, True], [True, False]]


def test_masks_of_the_input_on_literal_frames():
    masks = [(np.array([1, 0, 0], bool), np.array([0, 1], bool)), (np.array([0, 1], bool), np.array([0, 0], bool))]
    frames = {"input_features": torch.ones(2, 2, 4)}  # two channels, four frames
    expected = [[[0, 1, 1, 1], [0, 0, 0, 0]], [[1, 0, 1, 1], [1, 0, 1, 1]]]
    assert with_masks(frames, masks, 2)["input_features"].tolist() == expected
    turned = {"input_features": torch.ones(2, 4, 2)}
    assert with_masks(turned, masks, 1)["input_features"].transpose(1, 2).tolist() == expected
    assert with_masks(frames, [], 2) is frames


def clips_of(model):
    generator = torch.Generator().manual_seed(1)
    lengths = [8000, 4320, 16000]
    if model.main_input_name == "input_features":
        return [torch.randn(length // 160, 160, generator=generator) for length in lengths]
    return [torch.randn(length, generator=generator) for length in lengths]


def batch_of(model, clips, masks):
    lengths = torch.tensor([len(clip) for clip in clips])
    inputs = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    return {
        model.main_input_name: inputs,
        "attention_mask": (torch.arange(inputs.shape[1]) < lengths[:, None]).long(),
        **collated(masks),
        "labels": torch.tensor([[5, 6, 7]] * len(clips)),
        "frames": model._get_feat_extract_output_lengths(lengths).long(),
        "seconds": torch.tensor(1.0),
    }


def encoder_frames(model, length):
    if model.main_input_name == "input_features":
        return length
    before_adapters = {"add_adapter": False} if hasattr(model.config, "add_adapter") else {}
    return int(model._get_feat_extract_output_lengths(length, **before_adapters))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_batch_has_the_loss_and_gradient_of_its_clips_alone(tiny_model, family):
    """HuBERT's own masks fall on padding, and every family's own are rounded for the batch."""
    model = tiny_model(family, **NO_DROPOUT | MASKING).train()
    make_padding_exact(model)
    take_given_masks(model)
    task, clips = CtcCriterion(blank=0), clips_of(model)
    draw = SpecAugment(model.config, lambda length: encoder_frames(model, length), seed=0)
    masks = [draw(len(clip), 0, index) for index, clip in enumerate(clips)]
    assert all(time.any() for time, _ in masks)

    def gradient(batches):
        model.zero_grad()
        total = sum(task.loss(model, batch).total for batch in batches)
        total.backward()
        return total.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    together = gradient([batch_of(model, clips, masks)])
    alone = gradient([batch_of(model, [clip], [own]) for clip, own in zip(clips, masks, strict=True)])
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    (mask,) = (own for name, own in together[1].items() if "masked_spec_embed" in name)
    assert mask.abs().max() > 0
    for name, own in alone[1].items():
        assert torch.allclose(together[1][name], own, rtol=1e-3, atol=1e-3 * float(own.abs().max()) + 1e-6), name
    # And they do mask: without them the loss is another one.
    bare = {name: value for name, value in batch_of(model, clips, masks).items() if name not in (TIME, FEATURES)}
    assert task.loss(model, bare).total.item() != pytest.approx(together[0], rel=1e-3)


@pytest.mark.parametrize("family", ["wav2vec2-layer", "wavlm-layer", "wav2vec2-bert"])
def test_given_masks_do_what_those_of_transformers_do(tiny_model, family):
    """Where the base model itself is given masks of time."""
    model = tiny_model(family, **NO_DROPOUT, mask_feature_prob=0.0).train()
    [clip] = clips_of(model)[:1]
    frames = encoder_frames(model, len(clip))
    time = torch.zeros(1, frames, dtype=torch.bool)
    time[0, 3:9] = True
    plain = model.lm_head(model.base_model(clip[None], mask_time_indices=time).last_hidden_state)
    take_given_masks(model)
    none = torch.zeros(1, model.config.hidden_size, dtype=torch.bool)
    ours = model(clip[None], **{TIME: time, FEATURES: none}).logits
    assert torch.allclose(plain, ours, atol=1e-6)
