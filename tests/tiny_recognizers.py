"""Tiny random checkpoints, one per family, built from configurations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
VOCABULARY = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "mask_time_length": 4,
}
CONVOLUTIONS = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 4, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
BERT = {
    "feature_projection_input_dim": 160,
    "left_max_position_embeddings": 16,
    "right_max_position_embeddings": 4,
}
ADAPTER = {"add_adapter": True, "num_adapter_layers": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-group": ("Wav2Vec2", CONVOLUTIONS),
    "wav2vec2-layer": ("Wav2Vec2", {**CONVOLUTIONS, **LAYER_NORM}),
    "wav2vec2-adapter": (
        "Wav2Vec2",
        {**CONVOLUTIONS, **ADAPTER, "output_hidden_size": 24},
    ),
    "mms": ("Wav2Vec2", {**CONVOLUTIONS, **LAYER_NORM, "adapter_attn_dim": 8}),
    "hubert": ("Hubert", CONVOLUTIONS),
    "hubert-batch-norm": ("Hubert", {**CONVOLUTIONS, "conv_pos_batch_norm": True}),
    "wavlm": ("WavLM", CONVOLUTIONS),
    "wavlm-layer": ("WavLM", {**CONVOLUTIONS, **LAYER_NORM}),
    "data2vec": (
        "Data2VecAudio",
        {**CONVOLUTIONS, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    ),
    "wav2vec2-bert": ("Wav2Vec2Bert", BERT),
    "wav2vec2-bert-adapter": (
        "Wav2Vec2Bert",
        {**BERT, **ADAPTER, "use_intermediate_ffn_before_adapter": True},
    ),
    "conformer": (
        "Wav2Vec2Conformer",
        {**CONVOLUTIONS, **LAYER_NORM, "position_embeddings_type": "relative"},
    ),
    "unispeech": ("UniSpeech", CONVOLUTIONS),
    "unispeech-sat": ("UniSpeechSat", CONVOLUTIONS),
}


@pytest.fixture(scope="session")
def families() -> list[str]:
    return list(FAMILIES)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """`tiny_model(family, **config)` makes a random CTC model.

    Its norms, biases and running statistics are random too, because fresh ones (weight 1, bias 0) would hide errors in
    padding.
    """

    def build(family: str, **changes: Any) -> Any:
        import torch
        import transformers
        from torch import nn

        name, own = FAMILIES[family]
        settings = {
            **SIZES,
            "vocab_size": len(VOCABULARY),
            "pad_token_id": 0,
            "layerdrop": 0.0,
            **own,
            **changes,
        }
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCTC")(getattr(transformers, f"{name}Config")(**settings))
        for module in model.modules():
            if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d)) and module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        nn.init.normal_(model.lm_head.weight)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> Callable[..., Path]:
    """`tiny_directory(family, vocabulary=..., **config)` saves such a model like the checkpoints of its family."""
    kept: dict[str, Path] = {}

    def save(family: str, vocabulary: dict[str, int] | None = VOCABULARY, **changes: Any) -> Path:
        from transformers import (
            SeamlessM4TFeatureExtractor,
            Wav2Vec2CTCTokenizer,
            Wav2Vec2FeatureExtractor,
        )

        key = json.dumps([family, vocabulary, changes])
        if key in kept:
            return kept[key]
        folder = tmp_path_factory.mktemp(family)
        model = tiny_model(family, **changes)
        model.save_pretrained(folder)
        if family.startswith("wav2vec2-bert"):
            SeamlessM4TFeatureExtractor(padding_value=1.0).save_pretrained(folder)
        else:
            masked = model.config.to_dict().get("feat_extract_norm") != "group"
            Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)
        if vocabulary is not None:
            source = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
            source.write_text(json.dumps(vocabulary), encoding="utf-8")
            Wav2Vec2CTCTokenizer(str(source)).save_pretrained(folder)
        kept[key] = folder
        return folder

    return save


@pytest.fixture
def copied(tiny_directory, tmp_path):
    """`copied(family, ...)` copies such a directory, so that a test can damage it."""

    def copy(*arguments, **changes):
        return shutil.copytree(tiny_directory(*arguments, **changes), tmp_path / "copied", dirs_exist_ok=True)

    return copy
