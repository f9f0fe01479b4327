"""LoRA in every family: which layers have it, that all of it is trained, and that merging changes nothing."""

from __future__ import annotations

import logging

import pytest
import tiny_seq2seq as seq2seq
import torch
from tiny_lora import adapted, batch_of, randomize
from torch import nn

from sft_speech.errors import UserError
from sft_speech.models.adapt import freeze_feature_encoder, head_names
from sft_speech.models.described import describe
from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.families import family_of
from sft_speech.models.lora import choose_targets, lora_layers, merge, merged, short_names
from sft_speech.models.parts import depths_of

FAMILIES = (
    "wav2vec2-group wav2vec2-layer wav2vec2-adapter mms hubert wavlm wavlm-layer data2vec wav2vec2-bert conformer "
    "unispeech unispeech-sat parakeet lasr granite"
).split()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_update_of_a_ctc_model_is_trained_and_merging_changes_nothing(tiny_model, family, dora):
    model = make_padding_exact(tiny_model(family))
    before, names = model(**batch_of(model)).logits.detach(), set(model.state_dict())
    adapted(model, head_names(model), use_dora=dora)
    torch.testing.assert_close(model(**batch_of(model)).logits, before)
    randomize(model).train()
    (model(**batch_of(model)).logits.square().sum()).backward()
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == head_names(model)
    still = [name for name, one in model.named_parameters() if one.requires_grad and not one.grad.abs().sum() > 0]
    assert still == []
    unmerged = model.eval()(**batch_of(model)).logits.detach()
    assert not torch.allclose(unmerged, before, atol=1e-3)
    assert merge(model) is not None
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(**batch_of(model)).logits, unmerged, rtol=1e-4, atol=1e-4)
    assert merge(model) is None


def targets_of(model):
    return sorted({name.rsplit(".", 1)[-1] for name, _ in lora_layers(model)})


@pytest.mark.parametrize(
    ("family", "names", "layers"),
    [
        ("wav2vec2-group", "intermediate_dense k_proj out_proj output_dense q_proj v_proj", 12),
        ("mms", "intermediate_dense k_proj out_proj output_dense q_proj v_proj", 12),
        ("wavlm", "intermediate_dense output_dense", 4),
        ("conformer", "intermediate_dense linear_k linear_out linear_pos linear_q linear_v output_dense", 18),
        ("parakeet", "k_proj linear1 linear2 o_proj q_proj relative_k_proj v_proj", 18),
        ("granite", "k_proj linear1 linear2 o_proj pointwise_lin1 pointwise_lin2 q_proj v_proj", 20),
    ],
)
def test_attention_and_feed_forward_have_it_by_default(tiny_model, family, names, layers):
    model = adapted(tiny_model(family))
    assert " ".join(targets_of(model)) == names
    assert len(lora_layers(model)) == layers
    assert all(".layers." in name for name, _ in lora_layers(model))


def test_one_line_says_what_is_trained(tiny_model, caplog):
    model = tiny_model("wav2vec2-group")
    with caplog.at_level(logging.INFO):
        adapted(model, ["lm_head.weight", "lm_head.bias"], lora_targets=["q_proj", "v_proj"], use_rslora=True)
    total = sum(one.numel() for one in model.parameters())
    assert caplog.messages == [
        f"rsLoRA of rank 4, alpha 8, on 4 layers (q_proj, v_proj): 1,024 weights, {1024 / total:.1%} of all; "
        "trained fully: lm_head"
    ]
    assert f"LoRA of the encoder 1,024 ({1024 / total:.1%}) at 0.001" in describe(model, 1e-3, 1.0)
    assert not model.wav2vec2.feature_extractor._requires_grad


def test_a_low_learning_rate_is_remarked_on(tiny_model, caplog):
    adapted(tiny_model("hubert"), learning_rate=3e-5)
    assert "learning_rate 3e-05 is low for LoRA" in caplog.text


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("hubert", ["q_prj"], "no layer of this hubert model has such a name.\n-> did you mean q_proj?"),
        ("wavlm", ["q_proj"], "q_proj cannot have LoRA: the module around it reads its weight and does not call it"),
        ("wavlm", [".*layers.*"], "cannot have LoRA: the module around it reads its weight"),
        ("hubert", ["pos_conv_embed"], "it is a HubertPositionalConvEmbedding, not a linear layer"),
        ("granite", ["ctc_head"], "ctc_head cannot have LoRA: it shares its weight with another layer"),
    ],
)
def test_targets_that_cannot_be(tiny_model, family, targets, message):
    with pytest.raises(UserError) as error:
        adapted(tiny_model(family), lora_targets=targets)
    assert message in str(error.value)


def test_a_rank_above_a_layers_size(tiny_model):
    with pytest.raises(UserError, match=r"lora_rank 40: .* is a layer of 32 to 48 features.\n-> use at most 32"):
        adapted(tiny_model("hubert"), lora_rank=40, lora_targets=["intermediate_dense"])


def test_regular_expressions_and_all_linear(tiny_model):
    model = tiny_model("hubert")
    assert choose_targets(model, [r"hubert\.encoder\.layers\.1\..*_proj"], set()) == [
        f"hubert.encoder.layers.1.attention.{name}_proj" for name in ("k", "out", "q", "v")
    ]
    everything = choose_targets(model, ["all-linear"], set())
    assert "hubert.feature_projection.projection" in everything
    assert "lm_head" not in everything
    assert len(everything) == 13
    assert short_names(model, ["hubert.encoder.layers.1.attention.q_proj"]) == [
        "hubert.encoder.layers.1.attention.q_proj"
    ]
    with pytest.raises(UserError, match="lm_head cannot have LoRA: it is trained fully"):
        choose_targets(model, ["lm_head"], {"lm_head.weight"})


def test_frozen_layers_below_the_lowest_update_build_no_graph(tiny_model):
    model = adapted(tiny_model("hubert"), lora_targets=[r".*layers\.1\..*q_proj"]).train()
    seen = {}
    for number, layer in enumerate(model.hubert.encoder.layers):
        layer.register_forward_hook(
            lambda _, __, out, n=number: seen.update({n: torch.as_tensor(out[0]).requires_grad})
        )
    model(**batch_of(model))
    assert seen == {0: False, 1: True}


SEQ2SEQ = {
    "whisper": ("fc1 fc2 k_proj out_proj q_proj v_proj", 32),
    "moonshine": ("fc1 fc2 k_proj o_proj q_proj v_proj", 32),
    "moonshine-streaming": ("fc1 fc2 k_proj o_proj q_proj v_proj", 32),
    "speech2text": ("fc1 fc2 k_proj out_proj q_proj v_proj", 32),
}


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_a_model_that_writes_has_it_in_the_encoder_and_the_decoder(tiny_seq2seq, kind):
    from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint
    from sft_speech.tasks.asr.seq2seq.collator import Seq2SeqCollator
    from sft_speech.tasks.asr.seq2seq.loss import Seq2SeqCriterion

    checkpoint = load_checkpoint(tiny_seq2seq(kind), **({"language": "de"} if kind == "whisper" else {}))
    checkpoint.train_on(own_length=True)
    torch.manual_seed(0)
    clips = [
        {"id": "", "waveform": torch.randn(length).numpy() / 10, "prefix": checkpoint.transcripts.prefix("de"),
         "labels": checkpoint.transcripts.encode("a b c", "de")}
        for length in (9000, 16000)
    ]  # fmt: skip
    model = adapted(checkpoint.model)
    assert (" ".join(targets_of(model)), len(lora_layers(model))) == SEQ2SEQ[kind]

    def loss():
        return Seq2SeqCriterion().loss(model, Seq2SeqCollator(checkpoint)(clips)).total

    before = loss().detach()
    randomize(model)
    unmerged = loss()
    unmerged.backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and not one.grad.any()] == []
    assert all(".lora_" in name for name, one in model.named_parameters() if one.requires_grad)
    assert (unmerged - before).abs() > 1e-2
    merge(model)
    torch.testing.assert_close(loss(), unmerged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["tts", "vc"])
def test_speecht5(tiny_tts, tiny_converter, kind):
    from sft_speech.models.adapt import exact_padding

    model = adapted(exact_padding((tiny_tts if kind == "tts" else tiny_converter)()))
    assert len(lora_layers(model)) == 2 * 6 + 2 * 10
    inputs = {"input_ids": torch.arange(10)[None]} if kind == "tts" else {"input_values": torch.randn(1, 2000)}
    inputs |= {"labels": torch.randn(1, 12, 10), "speaker_embeddings": torch.randn(1, 16)}
    inputs |= {"decoder_attention_mask": torch.ones(1, 6, dtype=torch.long)}
    inputs |= {"attention_mask": torch.ones(1, 10 if kind == "tts" else 2000, dtype=torch.long)}
    before = model(**inputs).spectrogram.detach()
    unmerged = randomize(model)(**inputs).spectrogram
    unmerged.square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and not one.grad.any()] == []
    assert not torch.allclose(before, unmerged, atol=1e-3)
    merge(model)
    torch.testing.assert_close(model(**inputs).spectrogram, unmerged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["wav2vec2-layer", "granite"])
def test_gathered_weights_are_merged_as_the_model_itself(tiny_model, family, dora):
    model = randomize(adapted(tiny_model(family), head_names(tiny_model(family)), use_dora=dora))
    tied = getattr(model, "all_tied_weights_keys", {})
    state = {name: one.clone() for name, one in model.state_dict().items() if name not in tied}
    adapter, weights = merged(model, state)
    whole = merge(model)
    assert adapter.weights.keys() == whole.weights.keys()
    assert all(torch.equal(one, whole.weights[name]) for name, one in adapter.weights.items())
    plain = model.state_dict()
    assert weights.keys() == plain.keys() - tied.keys()
    torch.testing.assert_close(weights, {name: plain[name] for name in weights})


def test_gradient_checkpointing_reaches_every_update(tiny_model):
    model = randomize(adapted(tiny_model("wav2vec2-group"))).train()
    model.activation_checkpointing_enable()
    model(**batch_of(model)).logits.square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and not one.grad.any()] == []


def test_a_layer_that_reads_a_weight_is_not_a_plain_linear_layer(tiny_model):
    model = tiny_model("hubert")
    model.extra = nn.MultiheadAttention(8, 2)
    with pytest.raises(UserError, match="NonDynamicallyQuantizableLinear, not a linear layer"):
        choose_targets(model, ["extra.out_proj"], set())


def own_weights(model):
    """Return the names of the trained weights that are not LoRA's."""
    return {name for name, one in model.named_parameters() if one.requires_grad and ".lora_" not in name}


def test_parts_are_trained_beside_it_and_new_weights_without_being_named(tiny_model):
    model = adapted(tiny_model("wav2vec2-layer"), ["lm_head.weight"], train=["encoder.layers.1.norms"])
    norms = "wav2vec2.encoder.layers.1.layer_norm", "wav2vec2.encoder.layers.1.final_layer_norm"
    assert own_weights(model) == {f"{one}.{end}" for one in norms for end in ("weight", "bias")} | {"lm_head.weight"}
    head = {"lm_head.weight", "lm_head.bias"}
    depths = depths_of(dict(model.named_parameters()), head, family_of(model.config))
    assert {depth for name, depth in depths.items() if ".lora_" in name} == {1, 2}


def test_layers_that_are_trained_fully_have_none(tiny_model):
    model = adapted(tiny_model("wav2vec2-layer"), train=["encoder.layers.1"])
    assert {name.split(".")[3] for name, _ in lora_layers(model)} == {"0"}
    assert {name.split(".")[3] for name in own_weights(model)} == {"1"}


def test_what_is_fixed_stays_so_beside_it(tiny_model):
    """The sinusoids of a Whisper are weights, and belong to its encoder."""
    model = seq2seq.whisper(multilingual=True)[0]
    model.model.encoder.embed_positions.requires_grad_(False)
    adapted(model, lora_targets=[".*decoder.*q_proj"], train=["encoder"])
    assert "model.encoder.conv1.weight" in own_weights(model)
    assert "model.encoder.embed_positions.weight" not in own_weights(model)
    with pytest.raises(UserError, match="train feature_encoder: freeze_feature_encoder freezes it"):
        adapted(freeze_feature_encoder(tiny_model("wav2vec2-layer")), train=["feature_encoder"])
