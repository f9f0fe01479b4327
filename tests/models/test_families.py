"""A row per family: what it says must be so of the models that transformers builds."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    MODEL_FOR_TDT_MAPPING,
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForTDT,
    PreTrainedConfig,
)

from sft_speech.models.adapt import head_names
from sft_speech.models.exact.encoders import CLOSED_BY, make_padding_exact
from sft_speech.models.families import FAMILIES, family_of
from sft_speech.models.front_end import CLASSES, default_extractor

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (5, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
    "d_model": 16, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "squeeze_factor": 1,
}  # fmt: skip

HEADS = {"lm_head", "ctc_head", "decoder", "joint", "encoder_projector", "projector", "classifier", "encoder"}


def tiny(auto, model_type):
    config = AutoConfig.for_model(model_type)
    for part in filter(None, (config, getattr(config, "encoder_config", None))):
        part.update({name: value for name, value in SMALL.items() if hasattr(part, name)} | {"vocab_size": 20})
    torch.manual_seed(0)
    return auto.from_config(config).eval()


def models():
    for row in FAMILIES.values():
        for task, auto in (("asr", AutoModelForCTC), ("classification", AutoModelForAudioClassification)):
            if (task, row.recognizer) == ("asr", "tdt"):
                auto = AutoModelForTDT
            if task in row.tasks and (task, row.recognizer) != ("asr", "seq2seq"):
                yield pytest.param(row, auto, id=f"{row.model_type}-{task}")


@pytest.mark.parametrize(("row", "auto"), list(models()))
def test_names_are_those_of_the_models(row, auto):
    model = tiny(auto, row.model_type)
    body, names = row.body_name(model), [name for name, _ in model.named_parameters()]
    assert row.body_of(model) is model.get_submodule(body)
    heads = {name.split(".")[0] for name in head_names(model)}
    assert heads
    assert heads <= {
        "lm_head",
        "ctc_head",
        "decoder",
        "joint",
        "encoder_projector",
        "projector",
        "classifier",
        "encoder",
    }
    assert auto is AutoModelForAudioClassification or all(
        model.get_submodule(name).weight.shape.numel() for name in row.head
    )
    layers = filter(None, map(row.layer_of, names))
    assert {layer.number for layer in layers if layer.stack == "encoder"} == {0, 1, 2}
    encoder = row.feature_encoder_of(model)
    assert (encoder is not None) == (row.input == "waveform") == hasattr(model.config, "conv_kernel")
    assert hasattr(row.body_of(model), "_mask_hidden_states") == (row.spec_augment == "hidden")


def test_every_task_of_a_row_has_its_models():
    for row in FAMILIES.values():
        config = type(AutoConfig.for_model(row.model_type))
        recognizers = {
            "ctc": MODEL_FOR_CTC_MAPPING,
            "seq2seq": MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
            "tdt": MODEL_FOR_TDT_MAPPING,
        }[row.recognizer]
        assert "asr" not in row.tasks or config in recognizers
        assert "classification" not in row.tasks or config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING


@pytest.mark.parametrize("row", FAMILIES.values(), ids=lambda row: row.model_type)
def test_extractors_are_those_of_the_families(row):
    config = AutoConfig.for_model(row.model_type)
    extractor = default_extractor(config)
    assert type(extractor) is getattr(transformers, row.extractor)
    assert row.input in CLASSES
    assert row.leaks <= CLOSED_BY.keys() or row.model_type == "speecht5"


@pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "wavlm", "unispeech-sat"])
def test_classes_do_not_depend_on_neighbors(model_type):
    """The pooled head too: given the mask, it takes the mean over a clip's own frames."""
    model = tiny(AutoModelForAudioClassification, model_type)
    generator = torch.Generator().manual_seed(1)
    clips = [torch.randn(length, generator=generator) for length in (3000, 1111)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    mask = (torch.arange(3000) < torch.tensor([[3000], [1111]])).long()

    def difference():
        together = model(batch, attention_mask=mask).logits[1]
        alone = model(clips[1][None], attention_mask=torch.ones(1, 1111).long()).logits[0]
        return (together - alone).abs().max().item()

    assert difference() > 1e-5
    make_padding_exact(model)
    assert difference() < 1e-6


def test_a_mask_as_in_training():
    def masked(model_type, **changes):
        config = AutoConfig.for_model(model_type, **changes)
        return family_of(config).trained_with_mask(config)

    assert not masked("wav2vec2", feat_extract_norm="group")
    assert masked("wav2vec2", feat_extract_norm="layer")
    assert masked("data2vec-audio")
    assert masked("wav2vec2-bert")
    assert not masked("whisper")


def test_an_unknown_family_works_by_defaults_with_one_warning(caplog):
    class NewConfig(PreTrainedConfig):
        model_type = "never-seen"

    with caplog.at_level(logging.WARNING):
        rows = [family_of(NewConfig()) for _ in range(3)]
    assert caplog.text.count("never-seen is not a known family") == 1
    assert "Not guaranteed" in caplog.text
    assert rows[0].input == "extracted"
    assert not rows[0].exact
    assert not rows[0].leaks
