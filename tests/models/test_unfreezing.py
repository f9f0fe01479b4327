"""Parts that are trained only from some step on: their order, and exact gradients of the others."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import tiny_seq2seq
import torch
from tiny_lora import adapted, randomize

from sft_speech.errors import UserError
from sft_speech.models.adapt import freeze_feature_encoder, head_names
from sft_speech.models.described import describe
from sft_speech.models.parts import train_only
from sft_speech.models.unfreezing import Unfreezing, stages_of, starts_of


def modules(stages: list[list[str]], prefix: str, parts: int) -> list[set[str]]:
    return [{".".join(name.removeprefix(prefix).split(".")[:parts]) for name in stage} for stage in stages]


def test_a_ctc_model_is_unfrozen_from_the_head_down(tiny_model):
    model = freeze_feature_encoder(tiny_model("wav2vec2-adapter"))
    assert modules(stages_of(model), "wav2vec2.", 3) == [
        {"lm_head.weight", "lm_head.bias"},
        {"encoder.layers.1", "adapter.layers.0", "adapter.layers.1", "adapter.proj.weight", "adapter.proj.bias"}
        | {"adapter.proj_layer_norm.weight", "adapter.proj_layer_norm.bias"},
        {"encoder.layers.0"},
        {"masked_spec_embed", "encoder.pos_conv_embed.conv", "encoder.layer_norm.weight", "encoder.layer_norm.bias"}
        | {f"feature_projection.{one}.{end}" for one in ("layer_norm", "projection") for end in ("weight", "bias")},
    ]


def test_a_whisper_is_unfrozen_from_the_decoders_top_to_the_encoders_bottom():
    """Its head is also the embeddings below the decoder, so it does not come first."""
    model = tiny_seq2seq.whisper(multilingual=True)[0]
    assert modules(stages_of(model), "model.", 2)[2] == {
        "decoder.embed_tokens", "decoder.embed_positions", "decoder.layer_norm"
    }  # fmt: skip
    assert modules(stages_of(model), "model.", 3)[:2] == [{"decoder.layers.1"}, {"decoder.layers.0"}]
    assert modules(stages_of(model), "model.", 3)[3:5] == [{"encoder.layers.1"}, {"encoder.layers.0"}]
    assert "encoder.conv1" in modules(stages_of(model), "model.", 2)[5]
    assert len(stages_of(model)) == 6
    starts = starts_of(model, 0, 10)
    assert set(starts.values()) == {10, 20, 30, 40, 50}
    assert "model.decoder.layers.1.fc1.weight" not in starts


def test_stages_that_are_frozen_are_skipped(tiny_model):
    model = train_only(tiny_model("wav2vec2-layer"), ["head", "encoder.layers.0", "projection"])
    assert modules(stages_of(model), "wav2vec2.", 3)[1] == {"encoder.layers.0"}
    starts = starts_of(model, 0, 5)
    assert {name.split(".")[1]: step for name, step in starts.items()} == {"encoder": 5, "feature_projection": 10}


def test_steps_of_the_head_alone(tiny_model):
    model = tiny_model("wav2vec2-layer")
    late = {name for name, _ in model.named_parameters()} - head_names(model)
    assert starts_of(model, 0, 0) == {}
    assert starts_of(model, 7, 0) == dict.fromkeys(late, 7)
    starts = starts_of(model, 7, 3)
    assert starts.keys() == late
    assert set(starts.values()) == {7, 10, 13}
    assert starts["wav2vec2.encoder.layers.1.layer_norm.bias"] == 7
    train_only(model, ["encoder"])
    with pytest.raises(UserError, match="freeze_encoder_steps 7: no head is trained"):
        starts_of(model, 7, 0)


def test_steps_of_the_head_alone_need_a_head_that_is_trained_beside_lora(tiny_model):
    kept = adapted(tiny_model("wav2vec2-layer"))
    with pytest.raises(UserError, match=r"freeze_encoder_steps 7: no head is trained.\n-> add head to train"):
        starts_of(kept, 7, 0)
    updates = {number: {name for name, _ in kept.named_parameters() if f".{number}." in name and ".lora_" in name}
               for number in range(2)}  # fmt: skip
    assert starts_of(kept, 0, 5) == dict.fromkeys(updates[0], 5), "the top layer comes first, from the start"
    for changes in ({"train": ["head"]}, {"lora_targets": ["q_proj", "lm_head"]}):
        assert set(starts_of(adapted(tiny_model("wav2vec2-layer"), **changes), 7, 0).values()) == {7}
    new = adapted(tiny_model("wav2vec2-layer"), head_names(tiny_model("wav2vec2-layer")))
    assert starts_of(new, 7, 0) == dict.fromkeys(updates[0] | updates[1], 7)
    assert starts_of(new, 7, 5) == dict.fromkeys(updates[1], 7) | dict.fromkeys(updates[0], 12)


def ctc(tiny_model, **changes):
    model = tiny_model("wav2vec2-layer", **{"mask_time_prob": 0.0, **changes}).train()
    return model, lambda: model(torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))).logits


def whisper():
    model = tiny_seq2seq.whisper(multilingual=True)[0].train()
    generator = torch.Generator().manual_seed(0)
    features, tokens = torch.randn(2, 16, 400, generator=generator), torch.arange(10).view(2, 5)
    return model, lambda: model(input_features=features, decoder_input_ids=tokens).logits


def speech(tiny_tts):
    model = tiny_tts().train()
    generator = torch.Generator().manual_seed(0)
    mels, voices = torch.randn(2, 6, 10, generator=generator), torch.randn(2, 16, generator=generator)

    def run():
        tokens = torch.arange(4, 12).view(2, 4)
        output = model(input_ids=tokens, decoder_input_values=mels, speaker_embeddings=voices)
        return output.spectrogram.sum(1) + output.logits.sum() if hasattr(output, "logits") else output.spectrogram

    return model, run


def gradients(model, run):
    model.zero_grad()
    torch.manual_seed(1)
    run().square().mean().backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["ctc", "layerdrop", "whisper", "speech", "lora", "whisper with lora"])
def test_gradients_of_what_is_trained_are_those_of_the_whole_model(tiny_model, tiny_tts, kind, checkpointing):
    if kind == "speech":
        model, run = speech(tiny_tts)
    else:
        model, run = whisper() if "whisper" in kind else ctc(tiny_model, layerdrop=0.4 if kind == "layerdrop" else 0.0)
    if "lora" in kind:
        randomize(adapted(model, [] if "whisper" in kind else head_names(model)))
    if checkpointing:
        model.activation_checkpointing_enable()
    whole = gradients(model, run)
    starts = starts_of(model, 0, 10)
    unfreezing = Unfreezing(model, starts)
    assert set(starts.values()) == set(range(10, unfreezing.last + 1, 10))
    for step in range(0, unfreezing.last + 1, 5):
        unfreezing.on_step_begin(None, SimpleNamespace(global_step=step), None)
        torch.manual_seed(1)
        gradients(model, run)
        unfreezing.drop_gradients(model)
        found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        assert found.keys() == {name for name in whole if starts.get(name, 0) <= step}, step
        exact = {} if "lora" in kind else {"rtol": 0.0, "atol": 0.0}  # the linear layers of LoRA round otherwise
        torch.testing.assert_close(found, {name: whole[name] for name in found}, **{"rtol": 1e-4, "atol": 1e-8} | exact)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_what_is_not_trained_yet_builds_no_graph(tiny_model, kind):
    model, run = ctc(tiny_model) if kind == "ctc" else whisper()
    seen: dict[str, bool] = {}
    for name, module in model.named_modules():
        if re.search(r"coder\.layers\.[01]$|feature_projection$|embed_tokens$", name):
            module.register_forward_hook(
                lambda _, __, output, name=name: seen.update(
                    {name: (output[0] if isinstance(output, tuple) else output).requires_grad}
                )
            )
    unfreezing = Unfreezing(model, starts_of(model, 0, 10))
    built = []
    for step in range(0, unfreezing.last + 1, 10):
        unfreezing.on_step_begin(None, SimpleNamespace(global_step=step), None)
        run().sum().backward()
        built.append(
            [name.removeprefix("model.").removeprefix("wav2vec2.") for name, has in sorted(seen.items()) if has]
        )
    if kind == "ctc":
        assert built == [
            [],
            ["encoder.layers.1"],
            ["encoder.layers.0", "encoder.layers.1"],
            ["encoder.layers.0", "encoder.layers.1", "feature_projection"],
        ]
    else:
        assert built[:3] == [
            ["decoder.layers.1"],
            ["decoder.layers.0", "decoder.layers.1"],
            ["decoder.embed_tokens", "decoder.layers.0", "decoder.layers.1"],
        ]
        assert built[3] == [*built[2], "encoder.layers.1"]
        assert built[4] == built[5] == [*built[2], "encoder.layers.0", "encoder.layers.1"]
    with torch.no_grad():
        unfreezing.on_step_begin(None, SimpleNamespace(global_step=0), None)
        assert not run().requires_grad, "an evaluation within the schedule builds no graph either"
        unfreezing.on_step_begin(None, SimpleNamespace(global_step=unfreezing.last - 1), None)
        if kind == "whisper":  # as `generate` does
            assert not model.get_encoder()(torch.zeros(1, 16, 400)).last_hidden_state.requires_grad
        assert not torch.is_grad_enabled()


def test_a_head_that_is_also_in_the_encoder_is_trained_first(tiny_model):
    model = tiny_model("granite")
    assert head_names(model) == {"encoder.out.weight", "encoder.out.bias"}
    unfreezing = Unfreezing(model, starts_of(model, 1, 0))
    unfreezing.on_step_begin(None, SimpleNamespace(global_step=0), None)
    model(torch.randn(1, 40, 64)).logits.sum().backward()
    for parameter in model.encoder.parameters():  # as the trainer gives them
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    unfreezing.drop_gradients(model)
    assert {name for name, one in model.named_parameters() if one.grad is not None} == head_names(model)
    assert model.ctc_head.weight.grad.abs().sum() > 0


def test_a_shared_head_is_trained_under_autocast_too(tiny_model):
    """Autocast keeps a copy of weights that it casts; one made without a graph would hide the head's gradient."""
    model = tiny_model("granite").train()
    unfreezing = Unfreezing(model, starts_of(model, 1, 0))
    unfreezing.on_step_begin(None, SimpleNamespace(global_step=0), None)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(1, 40, 64)).logits
    logits.float().sum().backward()
    assert model.ctc_head.weight.grad.abs().sum() > 0


def test_one_line_says_what_is_trained(tiny_model):
    model = freeze_feature_encoder(tiny_model("wav2vec2-layer"))
    assert describe(model, 1e-3, 1.0) == (
        "trained: head 1,056 (4.6%) at 0.001, encoder 19,824 (86.3%) at 0.001, frozen feature_extractor 2,096 (9.1%)"
    )
    assert describe(model, 1e-3, 0.5, starts_of(model, 10, 0)) == (
        "trained: head 1,056 (4.6%) at 0.001, encoder 19,824 (86.3%) at 0.0005 down to 0.00013 from step 10 on, "
        "frozen feature_extractor 2,096 (9.1%)"
    )
    assert describe(model, 1e-3, 1.0, starts_of(model, 0, 100)) == (
        "trained: head 1,056 (4.6%) at 0.001, encoder 19,824 (86.3%) at 0.001 from the top down, step 100 to 300, "
        "frozen feature_extractor 2,096 (9.1%)"
    )
    train_only(model, ["head", "encoder.layers.1", "encoder.biases"])
    line = describe(model, 1e-3, 1.0)
    assert line.startswith("trained: head 1,056 (4.6%) at 0.001, encoder layer 1 and other parts 7,")
    assert "frozen encoder" in line


def test_the_line_on_a_whisper():
    model = tiny_seq2seq.whisper(multilingual=True)[0]
    assert describe(model, 1e-3, 0.5) == (
        "trained: head (also the embeddings) 7,552 (32.3%) at 0.001, decoder 7,152 (30.6%) at 0.0005 down to 0.00013, "
        "encoder 5,488 (23.5%) at 0.0005 down to 0.00013, frozen encoder 3,200 (13.7%)"
    )
    train_only(model, ["decoder.layers.0-1", "encoder.layers.1.norms"])
    assert describe(model, 1e-3, 1.0) == (
        "trained: decoder layers 0-1 6,096 (26.1%) at 0.001, encoder (a part of it) 64 (0.3%) at 0.001, "
        "frozen encoder 8,624 (36.9%), frozen head 7,552 (32.3%), frozen decoder 1,056 (4.5%)"
    )
