"""What makes a speech model fit to be cut in pieces; runs of it are in test_exact_loss.py and end_to_end."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, WavLMConfig, WavLMForCTC

from sft_speech.errors import UserError
from sft_speech.training import sharding


def tiny_wavlm() -> WavLMForCTC:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_conv_pos_embedding_groups": 2}
    return WavLMForCTC(WavLMConfig(**sizes, num_hidden_layers=2, conv_dim=(8,) * 7, vocab_size=5, layerdrop=1.0))


class Doubling(torch.nn.Module):
    """A layer that gives a second result, as WavLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))

    def forward(self, hidden_states, scale=1.0):
        return hidden_states * self.weight * scale, "bias"


def test_a_layer_left_out_passes_on_its_input_and_its_weights_get_zero():
    layer = Doubling()
    sharding.drop_within(layer, 1.0)
    given = torch.tensor([[1.0, 3.0]], requires_grad=True)
    hidden, bias = layer(given, scale=5.0)
    hidden.sum().backward()
    assert torch.equal(hidden, given)
    assert bias == "bias"
    assert layer.weight.grad.tolist() == [0.0]
    assert given.grad.tolist() == [[1.0, 1.0]]
    layer.eval()
    assert layer(given)[0].tolist() == [[2.0, 6.0]]


def test_the_share_of_layers_left_out():
    layer, given = Doubling(), torch.ones(1)
    sharding.drop_within(layer, 0.25)
    torch.manual_seed(0)
    left_out = sum(layer(given)[0].item() == 1.0 for _ in range(2000))
    assert left_out / 2000 == pytest.approx(0.25, abs=0.04)


def test_layer_drop_moves_from_the_encoder_into_its_layers_and_stays_in_the_configuration():
    model = tiny_wavlm()
    (encoder,) = sharding.stacks_of(model)
    assert encoder is model.wavlm.encoder
    sharding.drop_within_layers(encoder)
    assert model.config.layerdrop == 1.0
    assert encoder.config.layerdrop == 0.0
    model.train()(torch.randn(1, 4000)).logits.sum().backward()
    gradients = [weights.grad for name, weights in model.named_parameters() if "encoder.layers.1." in name]
    used = [gradient for gradient in gradients if gradient is not None]
    assert used
    assert not any(gradient.any() for gradient in used)


def test_weights_that_were_not_trained_yet_are_saved_with_the_state_they_begin_with():
    head, body = (torch.nn.Parameter(torch.ones(size)) for size in (2, 3))
    optimizer = torch.optim.AdamW([{"params": [head]}, {"params": [body]}])
    head.grad = torch.ones(2)
    optimizer.step()
    lazy = copy.deepcopy(optimizer)
    sharding.complete_state(SimpleNamespace(is_fsdp_enabled=True, optimizer=optimizer))
    assert optimizer.state[head]["step"] == 1
    assert {name: value.tolist() for name, value in optimizer.state[body].items()} == {
        "step": 0.0,
        "exp_avg": [0.0] * 3,
        "exp_avg_sq": [0.0] * 3,
    }
    body.grad = lazy.param_groups[1]["params"][0].grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    lazy.step()
    assert torch.equal(body, lazy.param_groups[1]["params"][0])


def test_what_can_not_be_cut_is_refused():
    sharding.check(tiny_wavlm(), SimpleNamespace(fsdp_version=2))
    with pytest.raises(UserError, match="FSDP2 only"):
        sharding.check(tiny_wavlm(), SimpleNamespace(fsdp_version=1))
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1)
    speaking = SpeechT5ForTextToSpeech(SpeechT5Config(hidden_size=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes))
    with pytest.raises(UserError, match=r"single number \(speecht5.*alpha\)"):
        sharding.check(speaking, SimpleNamespace(fsdp_version=2))


def test_a_checkpoint_written_otherwise_is_refused(tmp_path):
    whole, cut = SimpleNamespace(is_fsdp_enabled=False), SimpleNamespace(is_fsdp_enabled=True)
    sharding.check_resumable(whole, None)
    sharding.check_resumable(whole, tmp_path)
    with pytest.raises(UserError, match="without FSDP, and this run is with it"):
        sharding.check_resumable(cut, tmp_path)
    (tmp_path / "pytorch_model_fsdp.bin").touch()
    sharding.check_resumable(cut, tmp_path)
    with pytest.raises(UserError, match="with FSDP, and this run is without it"):
        sharding.check_resumable(whole, tmp_path)


def test_checkpoints_in_pieces_are_not_uploaded_and_that_is_said(caplog):
    cut, uncut = SimpleNamespace(is_fsdp_enabled=True), SimpleNamespace(is_fsdp_enabled=False)
    assert [sharding.uploadable(uncut, name) for name in ("end", "every_save")] == ["end", "every_save"]
    assert sharding.uploadable(cut, "end") == "end"
    assert not caplog.messages
    assert sharding.uploadable(cut, "every_save") == "end"
    (said,) = caplog.messages
    assert said.startswith("hub_strategy every_save: checkpoints of FSDP are not uploaded")
