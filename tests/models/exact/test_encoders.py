from __future__ import annotations

import copy

import pytest
import torch

from sft_speech.models.exact.encoders import make_padding_exact

FAMILIES = [
    "wav2vec2-group", "wav2vec2-layer", "wav2vec2-adapter", "mms", "hubert", "hubert-batch-norm", "wavlm",
    "wavlm-layer", "data2vec", "wav2vec2-bert", "wav2vec2-bert-adapter", "conformer", "unispeech", "unispeech-sat",
    "parakeet", "lasr", "granite",
]  # fmt: skip
LEAKING = {
    "wav2vec2-group", "wav2vec2-adapter", "hubert", "hubert-batch-norm", "wavlm", "data2vec", "wav2vec2-bert-adapter",
    "conformer", "unispeech", "unispeech-sat",
}  # fmt: skip
LEAKING_IN_TRAINING = {"parakeet", "lasr", "granite"}
LENGTHS = [8000, 4321, 16000, 2222]


def clips_of(model, lengths=LENGTHS):
    """Random inputs, one tensor (S,) or (S, features) per clip."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "input_features":
        features = {"parakeet_ctc": 16, "lasr_ctc": 16, "granite_speech5_ctc": 64}.get(model.config.model_type, 160)
        return [torch.randn(length // 160, features, generator=generator) for length in lengths]
    return [torch.randn(length, generator=generator) for length in lengths]


def logits_of(model, clips):
    """One (T, V) per clip, over its own frames."""
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.0)
    mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
    logits = model(batch, attention_mask=mask).logits
    count = getattr(model, "_get_feat_extract_output_lengths", None) or model._get_subsampling_output_length
    frames = count(lengths).long().tolist()
    return [row[:own] for row, own in zip(logits, frames, strict=True)]


def difference(model, lengths=LENGTHS):
    clips = clips_of(model, lengths)
    together = logits_of(model, clips)
    alone = [logits_of(model, [clip])[0] for clip in clips]
    assert all(a.shape == b.shape for a, b in zip(alone, together, strict=True))
    return max((a - b).abs().max().item() for a, b in zip(alone, together, strict=True))


NO_DROPOUT = dict.fromkeys(
    ("attention_dropout", "hidden_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout",
     "mask_time_prob", "mask_feature_prob", "conformer_conv_dropout", "dropout"), 0.0
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_logits_do_not_depend_on_neighbors(tiny_model, family, training):
    model = tiny_model(family, **NO_DROPOUT).train(training)
    if family in LEAKING or (training and family in LEAKING_IN_TRAINING):  # else the test would show nothing
        assert difference(model, [2 * length for length in LENGTHS]) > 0.1
    keys = list(model.state_dict())
    make_padding_exact(model)
    assert difference(model) < 1e-4
    assert difference(model, LENGTHS[::-1]) < 1e-4
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_alone_gives_what_plain_transformers_gives(tiny_model, family):
    model = tiny_model(family)
    [clip] = clips_of(model, [7000])
    plain = model(clip[None]).logits[0]
    make_padding_exact(model)
    [exact] = logits_of(model, [clip])
    assert torch.allclose(exact, plain, atol=1e-5)
    assert torch.allclose(model(clip[None]).logits[0], plain, atol=1e-5)  # without a mask too


def gradients(model, groups):
    """Of the summed logits, weighted, accumulated over groups of clips."""
    model.zero_grad()
    for group in groups:
        sum(logits.pow(2).sum() for logits in logits_of(model, group)).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


GRADIENTS = ["wav2vec2-group", "data2vec", "conformer", "wav2vec2-adapter", "parakeet", "lasr", "granite"]


@pytest.mark.parametrize("family", GRADIENTS)
def test_gradients_are_those_of_the_clips_alone(tiny_model, family):
    model = tiny_model(family, **NO_DROPOUT).double().train()
    make_padding_exact(model)
    clips = [clip.double() for clip in clips_of(model)]
    alone, together = (
        gradients(model, [[clip] for clip in clips]),
        gradients(model, [clips]),
    )
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        assert torch.allclose(value, together[name], rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("family", ["wav2vec2-group", "conformer"])
def test_gradient_checkpointing_recomputes_the_same(tiny_model, family):
    model = tiny_model(family, **NO_DROPOUT).train()
    make_padding_exact(model)
    expected = gradients(model, [clips_of(model)])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, [clips_of(model)])
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.allclose(value, found[name], rtol=1e-4, atol=1e-6 * value.abs().max()), name


def test_a_copied_model_keeps_to_its_own_lengths(tiny_model):
    model = tiny_model("wav2vec2-group")
    make_padding_exact(model)
    copied = copy.deepcopy(model)
    logits_of(model, clips_of(model, [3000, 900]))
    assert difference(copied) < 1e-4


def test_lengths_of_another_batch_are_refused(tiny_model):
    model = tiny_model("wav2vec2-group")
    make_padding_exact(model)
    logits_of(model, clips_of(model))
    with pytest.raises(RuntimeError, match="another batch"):
        model.base_model.feature_extractor(torch.zeros(2, 8000))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_group_norm_keeps_the_precision_it_is_given(tiny_model, dtype):
    model = tiny_model("wav2vec2-group").to(dtype)
    make_padding_exact(model)
    assert all(logits.dtype == dtype for logits in logits_of(model, [clip.to(dtype) for clip in clips_of(model)]))


def test_autocast_is_followed(tiny_model):
    model = tiny_model("wav2vec2-group")
    make_padding_exact(model)
    with torch.autocast("cpu", torch.bfloat16):
        together = logits_of(model, clips_of(model))
        alone = [logits_of(model, [clip])[0] for clip in clips_of(model)]
    scale = max(logits.abs().max().item() for logits in alone)
    assert max((a - b).abs().max().item() for a, b in zip(alone, together, strict=True)) < 0.05 * scale


def test_an_unknown_family_is_warned_about(caplog):
    from transformers import SEWConfig, SEWForCTC

    make_padding_exact(SEWForCTC(SEWConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                           intermediate_size=16, num_conv_pos_embedding_groups=4)))  # fmt: skip
    assert "sew is not known to ignore padding" in caplog.text
