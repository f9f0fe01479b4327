"""Convolutions with groups under autocast: in float32 on a CPU, with the values of the plain model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sft_speech.models.exact.lengths import PreciseConv1d, use_precise_convolutions
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
from sft_speech.tasks.asr.ctc.loss import ctc_losses

# Of these, torch's own are wrong in bfloat16 on CPUs with AMX: 12 channels to a group, 64 taps.
SIZE = {"hidden_size": 48, "num_conv_pos_embedding_groups": 4}
WITH_GROUPS = ["wav2vec2-group", "wav2vec2-layer", "hubert", "hubert-batch-norm", "wavlm", "unispeech", "unispeech-sat"]


@pytest.mark.parametrize("family", [*WITH_GROUPS, "data2vec"])
def test_the_loss_in_bfloat16_is_that_in_float32(family: str, tiny_directory) -> None:
    taps = {"conv_pos_kernel_size": 64} if family == "data2vec" else {"num_conv_pos_embeddings": 64}
    checkpoint = load_checkpoint(tiny_directory(family, **SIZE, **taps))
    model = checkpoint.model
    for name, weight in model.named_parameters():
        if "pos_conv_embed" in name and weight.ndim == 3:  # random ones are too small to matter
            weight.data *= 10
    torch.manual_seed(0)
    clips = [torch.randn(length).numpy() for length in (16000, 12000)]
    inputs, labels = checkpoint.features(clips), torch.tensor([[5, 6, 7, 5], [7, 5, 6, -100]])
    losses = {}
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
            logits = model(**inputs).logits
        losses[autocast] = ctc_losses(logits, torch.tensor([checkpoint.frames(len(clip)) for clip in clips]), labels, 0)
    torch.testing.assert_close(losses[True], losses[False], rtol=0.02, atol=0)


def test_half_precision_stays_half_precision() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv1d(32, 32, 64, padding=32, groups=4), nn.Conv1d(32, 64, 3, groups=2))
    given = torch.randn(2, 32, 100)
    with torch.no_grad():
        expected = plain(given)
        use_precise_convolutions(plain)
        found = plain.bfloat16()(given.bfloat16())
    assert [isinstance(one, PreciseConv1d) for one in plain] == [True, False]
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_the_state_of_a_model_stays_that_of_plain_transformers(tiny_model, tiny_directory: Path) -> None:
    plain = tiny_model("wav2vec2-group", **SIZE)
    loaded = load_checkpoint(tiny_directory("wav2vec2-group", **SIZE)).model
    assert isinstance(loaded.wav2vec2.encoder.pos_conv_embed.conv, PreciseConv1d)
    assert loaded.state_dict().keys() == plain.state_dict().keys()
