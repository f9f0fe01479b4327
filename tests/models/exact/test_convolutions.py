"""Convolutions as products of matrices: the values of torch's own convolutions, over a clip's own frames."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from sft_speech.models.exact import convolutions
from sft_speech.models.exact.convolutions import as_matrix, convolved, windows, with_matrix_products
from sft_speech.models.exact.lengths import ClipLengths
from sft_speech.models.exact.norms import use_own_frames


def encoder_of(lengths, norm="group", bias=False):
    """That of wav2vec 2.0, narrow: seven layers, 320 samples to a frame."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        conv_dim=(6, 8, 8, 8, 8, 8, 10), feat_extract_norm=norm, conv_bias=bias, hidden_size=8, num_attention_heads=2,
        num_hidden_layers=1, intermediate_size=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    encoder = Wav2Vec2Model(config).feature_extractor.eval().requires_grad_(False)
    for parameter in encoder.parameters():  # norms start as ones and zeros, which would hide much
        nn.init.normal_(parameter, std=0.4)
    use_own_frames(encoder, lengths)
    return encoder


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_values_are_those_of_the_convolutions(norm, bias):
    lengths = ClipLengths()
    encoder = encoder_of(lengths, norm, bias)
    clips = torch.randn(3, 100_000)  # 312 frames: more than three pieces
    lengths.inputs = torch.tensor([100_000, 64_123, 400])
    expected = encoder(clips)
    encoder = with_matrix_products(encoder, lengths)
    found = encoder(clips)
    assert found.shape == expected.shape
    for frames, one, other in zip([312, 200, 1], expected, found, strict=True):
        assert torch.allclose(one[:, :frames], other[:, :frames], atol=1e-5, rtol=1e-4)
        assert not other[:, frames:].any()
    lengths.inputs = None
    assert torch.allclose(encoder(clips[:1]), expected[:1], atol=1e-5, rtol=1e-4)


def test_a_piece_more_or_less_changes_nothing(monkeypatch):
    lengths = ClipLengths()
    encoder = encoder_of(lengths)
    encoder = with_matrix_products(encoder, lengths)
    clip = torch.randn(1, 20_000)
    whole = encoder(clip)
    for piece in (1, 7, 61, 62):
        monkeypatch.setattr(convolutions, "PIECE", piece)
        assert torch.allclose(encoder(clip), whole, atol=1e-5)


@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 4), st.integers(0, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_kernel(stride, more, channels, frames, biased):
    kernel = stride + more
    layer = nn.Conv1d(channels, 5, kernel, stride, bias=biased)
    hidden = torch.randn(kernel + frames, channels)
    weight = layer.weight.permute(2, 1, 0).flatten(0, 1)
    with torch.no_grad():
        found = convolved(hidden, weight, layer.bias, kernel, stride)
        assert torch.allclose(found, layer(hidden.T[None])[0].T, atol=1e-5)


def plain_calls(encoder):
    """Counts how often torch's convolution of the first layer runs."""
    calls = []
    encoder.conv_layers[0].conv.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_under_autocast(norm, bias):
    lengths = ClipLengths()
    encoder = with_matrix_products(encoder_of(lengths, norm, bias).train().requires_grad_(True), lengths)
    calls, clips = plain_calls(encoder), torch.randn(2, 16_003)
    lengths.inputs = torch.tensor([16_003, 9_999])
    own = torch.arange(49) < torch.tensor([49, 30])[:, None]  # frames
    target = torch.randn(2, 10, 49) * own[:, None]
    made, gradients = [], []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made.append(encoder(clips))
        (made[-1] * target).sum().backward()
        gradients.append({name: weight.grad for name, weight in encoder.named_parameters()})
        encoder.zero_grad(set_to_none=True)
    assert len(calls) == 1  # not under autocast
    plain, products = (one.movedim(1, 2)[own].float() for one in made)
    assert (plain - products).norm() < 0.03 * plain.norm()
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() < 0.1 * gradient.norm() + 1e-3, name


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_inference_under_autocast_goes_clip_by_clip(norm):
    lengths = ClipLengths()
    encoder = with_matrix_products(encoder_of(lengths, norm).eval(), lengths)
    clips, lengths.inputs = torch.randn(2, 16_003), torch.tensor([16_003, 9_999])
    with torch.no_grad():
        precise = encoder(clips)
        with torch.autocast("cpu", torch.bfloat16):
            made = encoder(clips)
    assert made.dtype == torch.bfloat16
    assert (made.float() - precise).norm() < 0.03 * precise.norm()
    assert not made[1, :, 30:].any()  # after the second clip's own frames


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_waveform_gets_a_gradient_for_gradient_checkpointing_only(checkpointing):
    lengths = ClipLengths()
    encoder = with_matrix_products(encoder_of(lengths).train().requires_grad_(True), lengths)
    encoder.gradient_checkpointing = checkpointing
    given = []
    encoder.conv_layers[0].register_forward_pre_hook(lambda _, args: given.append(args[0].requires_grad))
    encoder(torch.randn(2, 1000))
    assert given == [checkpointing]


@given(st.integers(1, 4), st.integers(0, 9), st.integers(1, 4), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_windows_of_any_kernel(stride, more, channels, frames):
    kernel = stride + more
    layer = nn.Conv1d(channels, 5, kernel, stride, bias=False)
    hidden = torch.randn(2, kernel + frames, channels)
    with torch.no_grad():
        found = windows(hidden, layer) @ as_matrix(layer)
        assert torch.allclose(found, layer(hidden.mT).mT, atol=1e-5)


@pytest.mark.parametrize("why", ["training", "double", "nothing"])
def test_where_it_is_not_possible_nothing_changes(why):
    lengths = ClipLengths()
    encoder = encoder_of(lengths)
    encoder = with_matrix_products(encoder, lengths)
    calls, clips = plain_calls(encoder), torch.randn(2, 1000)
    if why == "training":
        encoder.requires_grad_(True)
    if why == "double":
        encoder, clips = encoder.double(), clips.double()
    made = encoder(clips)
    assert len(calls) == (why != "nothing")
    assert made.requires_grad == (why == "training")


def test_other_encoders_are_left_alone():
    lengths = ClipLengths()
    encoder = encoder_of(lengths)
    encoder.conv_layers[3].conv.dilation = (2,)
    assert with_matrix_products(encoder, lengths) is encoder


def test_lengths_of_another_batch_are_refused():
    lengths = ClipLengths()
    encoder = encoder_of(lengths, "layer")
    encoder = with_matrix_products(encoder, lengths)
    lengths.inputs = torch.tensor([1000])
    with pytest.raises(RuntimeError, match="another batch"):
        encoder(torch.zeros(2, 1000))
