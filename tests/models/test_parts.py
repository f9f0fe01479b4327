"""What each part of each kind of model is, and what a run then trains."""

from __future__ import annotations

import re

import pytest
import tiny_seq2seq
import torch
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    ParakeetForTDT,
    ParakeetTDTConfig,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from sft_speech.errors import UserError
from sft_speech.models.adapt import exact_padding, freeze_feature_encoder
from sft_speech.models.exact.norms import RunningBatchNorm
from sft_speech.models.parts import Parts, depths_of, train_only

BOTH = ("weight", "bias")


def names(*prefixes: str, ends: tuple[str, ...] = BOTH) -> set[str]:
    return {f"{prefix}.{end}" for prefix in prefixes for end in ends}


def ast() -> ASTForAudioClassification:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    return ASTForAudioClassification(ASTConfig(**sizes, max_length=96, num_mel_bins=16))


def transducer() -> ParakeetForTDT:
    encoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    encoder |= {"subsampling_conv_channels": 8, "num_mel_bins": 16, "conv_kernel_size": 5}
    return ParakeetForTDT(ParakeetTDTConfig(vocab_size=10, decoder_hidden_size=8, encoder_config=encoder))


W, A, S = "wav2vec2.encoder.layers.1", "audio_spectrogram_transformer", "speecht5.encoder.wrapped_encoder"
D, M, P = "speecht5.decoder.wrapped_decoder.layers.1", "model.decoder.layers.1", "encoder.layers.1"
OF_A_LAYER = (
    *(f"attention.{one}_proj" for one in ("q", "k", "v", "out")),
    *("layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense", "final_layer_norm"),
)
KEYS_WITHOUT_BIAS = {"model.decoder.layers.1.self_attn.k_proj.bias", "model.decoder.layers.1.encoder_attn.k_proj.bias"}


@pytest.mark.parametrize(
    ("family", "part", "expected"),
    [
        ("wav2vec2-layer", "head", names("lm_head")),
        ("wav2vec2-layer", "encoder.layers.1-", names(*(f"{W}.{one}" for one in OF_A_LAYER))),
        ("wav2vec2-layer", "encoder.layers.top1", names(*(f"{W}.{one}" for one in OF_A_LAYER))),
        ("wav2vec2-layer", "encoder.layers.1", names(*(f"{W}.{one}" for one in OF_A_LAYER))),
        ("wav2vec2-layer", "encoder.layers.1.attention", names(*(f"{W}.{one}" for one in OF_A_LAYER[:4]))),
        ("wav2vec2-layer", "encoder.layers.top1.norms", names(f"{W}.layer_norm", f"{W}.final_layer_norm")),
        ("wav2vec2-layer", "encoder.layers.1-.biases", names(*(f"{W}.{one}" for one in OF_A_LAYER), ends=("bias",))),
        ("wav2vec2-layer", "wav2vec2.encoder.layers.1.final_layer_norm", names(f"{W}.final_layer_norm")),
        ("wav2vec2-layer", "*1.final_layer_norm.bias", {f"{W}.final_layer_norm.bias"}),
        (
            "wav2vec2-group",
            "feature_encoder",
            names(
                *(f"wav2vec2.feature_extractor.conv_layers.{n}.conv" for n in range(3)), ends=("weight",)
            ) | names("wav2vec2.feature_extractor.conv_layers.0.layer_norm"),
        ),
        (
            "wav2vec2-layer",
            "projection",
            names("wav2vec2.feature_projection.layer_norm", "wav2vec2.feature_projection.projection"),
        ),
        ("wav2vec2-layer", "masked_spec_embed", {"wav2vec2.masked_spec_embed"}),
        (
            "hubert",
            "encoder.layers.1.norms",
            names("hubert.encoder.layers.1.layer_norm", "hubert.encoder.layers.1.final_layer_norm"),
        ),
        (
            "hubert",
            "encoder.layers.0-0.feed_forward",
            names(*(f"hubert.encoder.layers.0.{one}" for one in OF_A_LAYER[5:7])),
        ),
        ("granite", "head", {"encoder.out.weight", "encoder.out.bias"}),
        (
            "parakeet",
            "encoder.layers.top1.attention",
            names(*(f"{P}.self_attn.{one}_proj" for one in "qkvo"))
            | {f"{P}.self_attn.{one}" for one in ("bias_u", "bias_v", "relative_k_proj.weight")},
        ),
        (
            "parakeet",
            "encoder.layers.1.norms",
            names(f"{P}.conv.norm", f"{P}.norm_feed_forward1", f"{P}.norm_self_att")
            | names(f"{P}.norm_conv", f"{P}.norm_feed_forward2", f"{P}.norm_out"),
        ),
        ("parakeet", "encoder.layers.1.conv.pointwise_conv1", names(f"{P}.conv.pointwise_conv1")),
    ],
)  # fmt: skip
def test_parts_of_ctc_models(tiny_model, family, part, expected):
    assert Parts(tiny_model(family)).find(part) == expected


def test_parts_of_a_whisper():
    parts = Parts(tiny_seq2seq.whisper(multilingual=True)[0])
    tokens = {"model.decoder.embed_tokens.weight"}
    assert parts.find("head") == parts.find("proj_out") == tokens
    positions = {f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")}
    assert parts.find("embeddings") == tokens | positions
    crossed = names(*(f"{M}.encoder_attn.{one}_proj" for one in ("q", "k", "v", "out")))
    own = names(*(f"{M}.self_attn.{one}_proj" for one in ("q", "k", "v", "out")))
    assert parts.find("decoder.layers.top1.attention") == (crossed | own) - KEYS_WITHOUT_BIAS
    assert parts.find("*.1.encoder_attn") & parts.find("decoder") == crossed - KEYS_WITHOUT_BIAS
    assert parts.find("decoder.layers.1-.feed_forward") == names(f"{M}.fc1", f"{M}.fc2")
    assert parts.find("encoder.layers.0.norms") == names(
        "model.encoder.layers.0.self_attn_layer_norm", "model.encoder.layers.0.final_layer_norm"
    )
    assert tokens < parts.find("decoder"), "the embeddings belong to the decoder too"
    assert not parts.find("encoder") & parts.find("decoder")
    assert parts.find("encoder") | parts.find("decoder") == parts.find("all")
    assert parts.find("encoder.conv1") == names("model.encoder.conv1")


def test_parts_of_speecht5(tiny_tts, tiny_converter):
    parts = Parts(tiny_tts())
    assert parts.find("speech_decoder_postnet") == parts.find("head")
    assert parts.find("encoder.layers.1") == names(*(f"{S}.layers.1.{one}" for one in OF_A_LAYER))
    assert parts.find("decoder.layers.1.norms") == names(
        f"{D}.self_attn_layer_norm", f"{D}.encoder_attn_layer_norm", f"{D}.final_layer_norm"
    )
    assert parts.find("decoder.prenet.speaker_embeds_layer") == names("speecht5.decoder.prenet.speaker_embeds_layer")
    assert parts.find("embeddings") == {
        "speecht5.encoder.prenet.embed_tokens.weight",
        f"{S}.embed_positions.pe_k.weight",
    }
    parts = Parts(tiny_converter())
    convolutions = [f"speecht5.encoder.prenet.feature_encoder.conv_layers.{n}" for n in range(2)]
    assert parts.find("feature_encoder") == names(*(f"{one}.conv" for one in convolutions), ends=("weight",)) | names(
        f"{convolutions[0]}.layer_norm"
    )


def test_parts_of_a_spectrogram_transformer():
    parts = Parts(ast())
    assert parts.find("head") == names("classifier.layernorm", "classifier.dense")
    assert parts.find("encoder.layers.1.feed_forward") == names(f"{A}.layers.1.mlp.fc1", f"{A}.layers.1.mlp.fc2")
    assert parts.find("encoder.layers.0.attention") == names(*(f"{A}.layers.0.attention.{one}_proj" for one in "qkvo"))
    tokens = {f"{A}.embeddings.{one}" for one in ("cls_token", "distillation_token", "position_embeddings")}
    assert parts.find("embeddings") == tokens | names(f"{A}.embeddings.patch_embeddings.projection")


def test_parts_of_a_transducer():
    parts = Parts(transducer())
    heads = {name.split(".")[0] for name in parts.find("head")}
    assert heads == {"decoder", "joint", "encoder_projector"}
    assert parts.find("joint") == names("joint.head")
    assert parts.find("decoder") < parts.find("head")
    assert parts.find("encoder.layers") < parts.find("encoder")


def trained(model: nn.Module) -> set[str]:
    return {name for name, one in model.named_parameters() if one.requires_grad}


def test_parts_are_joined_and_those_after_not_left_out(tiny_model):
    model = train_only(tiny_model("wav2vec2-layer"), ["head", "encoder.layers.1.norms", "not *.bias"])
    assert trained(model) == {f"{W}.layer_norm.weight", f"{W}.final_layer_norm.weight", "lm_head.weight"}
    model = tiny_model("wav2vec2-layer")
    assert trained(train_only(model, ["not encoder.layers"])) == {
        name for name, _ in model.named_parameters() if "encoder.layers." not in name
    }
    model = tiny_model("wav2vec2-layer")
    assert trained(train_only(model, [])) == {name for name, _ in model.named_parameters()}


def test_a_feature_encoder_that_another_option_freezes_stays_frozen(tiny_model):
    model = freeze_feature_encoder(tiny_model("wav2vec2-layer"))
    with pytest.raises(
        UserError,
        match=r"train feature_encoder: freeze_feature_encoder freezes it.\n-> set freeze_feature_encoder: false",
    ):
        train_only(model, ["head", "feature_encoder"])
    assert not any("feature_extractor" in name for name in trained(train_only(model, ["all"])))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["wav2vec2-group", "hubert", "parakeet", "wav2vec2-bert"])
def test_there_is_no_graph_below_the_lowest_trained_layer(tiny_model, family, checkpointing):
    model = exact_padding(tiny_model(family)).train()
    train_only(model, ["head", "encoder.layers.1"])
    if checkpointing:
        model.activation_checkpointing_enable()
    inside = {}
    for name, module in model.named_modules():
        if re.search(r"encoder\.layers\.[01]$|feature_projection$|feature_extractor$", name):
            module.register_forward_hook(
                lambda _, __, output, name=name: inside.update({name: output}) and None  # the last one wins
            )
    size = (2, 60, model.config.encoder_config.num_mel_bins) if family == "parakeet" else (2, 2000)
    size = (2, 60, model.config.feature_projection_input_dim) if family == "wav2vec2-bert" else size
    mask = torch.ones(size[:2], dtype=torch.long)
    model(torch.randn(size), attention_mask=mask).logits.sum().backward()
    graphs = {
        name: any(
            one.requires_grad for one in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(one)
        )
        for name, output in inside.items()
    }
    assert len(graphs) >= 2
    assert {name for name, has in graphs.items() if has} == {name for name in graphs if name.endswith("layers.1")}
    assert {name for name, one in model.named_parameters() if one.grad is not None} <= trained(model)
    assert all(module.training for module in model.modules()), "dropout stays"


def test_batch_norms_that_are_frozen_keep_their_statistics_and_use_them(tiny_model):
    """Those of known families always do, see `exact_padding`; these are as in a model that no row knows."""
    model = tiny_model("parakeet").train()
    train_only(model, ["head", "encoder.layers.1"])
    below, above = (model.encoder.layers[number].conv.norm for number in range(2))
    assert isinstance(below, RunningBatchNorm)
    assert not isinstance(above, RunningBatchNorm)
    before = [norm.running_mean.clone() for norm in (below, above)]
    model(torch.randn(2, 60, model.config.encoder_config.num_mel_bins))
    assert torch.equal(below.running_mean, before[0])
    assert not torch.equal(above.running_mean, before[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["atention"], r"train atention: this wav2vec2 model has no such part.\n-> did you mean attention\? it has "
                       r"all 22,976, head 1,056, .* encoder.layers 15,008, .*weights"),
        (["decoder"], "train decoder: this wav2vec2 model has no such part"),
        (["decoder.layers.top2"], "train decoder.layers.top2: this wav2vec2 model has no decoder layers"),
        (["head", "encoder.layers.7-"], r"7-: this wav2vec2 model has 2 encoder layers, 0 to 1.\n-> write "
                                        "encoder.layers.1- for the last one"),
        (["encoder.layers.top3"], "2 encoder layers"),
        (["encoder.layers.1-0"], "2 encoder layers"),
        (["encoder.layers.top0"], "2 encoder layers"),
        (["head", "not all"], r"train \[head, not all\]: nothing is left to train"),
        (["encoder"], r"train \[encoder\]: the head is new, and would stay random.\n-> add head"),
        (["not lm_head"], "the head is new"),
    ],
)  # fmt: skip
def test_what_can_not_be_trained_is_refused(tiny_model, given, message):
    with pytest.raises(UserError, match=message):
        train_only(tiny_model("wav2vec2-layer"), given, ["lm_head.weight", "lm_head.bias"])


def classifier() -> Wav2Vec2ForSequenceClassification:
    """A model whose head is a projector below a classifier."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (20, 16), "num_conv_pos_embeddings": 4}
    config = Wav2Vec2Config(**sizes, **convolutions, num_conv_pos_embedding_groups=2, classifier_proj_size=8)
    return Wav2Vec2ForSequenceClassification(config)


@pytest.mark.parametrize(
    ("given", "new", "message"),
    [
        (["classifier"], ["classifier.weight", "classifier.bias"], None),
        (["head"], ["classifier.weight", "projector.weight"], None),
        (["head", "not biases"], ["classifier.weight", "classifier.bias"], None),
        (["head"], ["wav2vec2.masked_spec_embed"], None),
        (["classifier"], ["unknown.weight"], None),
        (["projector"], ["classifier.weight"], "classifier is new, and would stay random.\n-> add classifier"),
        (["encoder"], ["classifier.weight"], "classifier is new, and would stay random.\n-> add classifier"),
        (
            ["encoder"],
            ["classifier.weight", "projector.weight"],
            "the head is new, and would stay random.\n-> add head",
        ),
        (
            ["head"],
            ["wav2vec2.feature_projection.projection.weight", "wav2vec2.feature_projection.layer_norm.weight"],
            "feature_projection.projection is new, and would stay random.\n-> add feature_projection.projection",
        ),
        (
            ["encoder.layers.1"],
            ["classifier.weight", "projector.weight", "wav2vec2.feature_projection.projection.weight"],
            "head and 1 more are new, and would stay random.\n-> add head, feature_projection.projection",
        ),
        (["head"], "all", "and [0-9]+ more are new, and would stay random.\n-> leave train out"),
    ],
)
def test_weights_that_are_new_must_be_trained_and_others_need_not_be(given, new, message):
    model = classifier()
    new = [name for name, _ in model.named_parameters()] if new == "all" else new
    if message is None:
        assert trained(train_only(model, given, new)) == Parts(model).chosen(given)
    else:
        with pytest.raises(UserError, match=message):
            train_only(model, given, new)


def test_a_new_head_that_is_also_the_embeddings_is_found_by_each_of_its_names():
    with pytest.raises(UserError, match="the head is new"):
        train_only(tiny_seq2seq.whisper(multilingual=True)[0], ["encoder"], ["proj_out.weight"])


def test_the_fixed_positions_of_a_whisper_can_not_be_trained():
    model = tiny_seq2seq.whisper(multilingual=True)[0]
    model.model.encoder.embed_positions.requires_grad_(False)
    with pytest.raises(UserError, match=r"train encoder.embed_positions: it is fixed in this model, or frozen"):
        train_only(model, ["decoder", "encoder.embed_positions"])


def test_layers_of_encoder_and_decoder_are_counted_from_their_tops():
    model = tiny_seq2seq.whisper(multilingual=True)[0]
    parts = Parts(model)
    depths = depths_of([name for name, _ in model.named_parameters()], parts.head, parts.family)
    short = {}
    for name, depth in depths.items():
        short[".".join(name.split(".")[1:4] if "layers" in name else name.split(".")[1:3])] = depth
    assert short == {
        "decoder.embed_tokens": 0,
        "decoder.layers.1": 1,
        "decoder.layers.0": 2,
        "decoder.embed_positions": 3,
        "decoder.layer_norm": 3,
        "encoder.layers.1": 1,
        "encoder.layers.0": 2,
        "encoder.layer_norm": 3,
        "encoder.embed_positions": 3,
        "encoder.conv1": 3,
        "encoder.conv2": 3,
    }
