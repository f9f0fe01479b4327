"""Tiny random models to pre-train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForPreTraining,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)

from sft_speech.models.adapt import exact_padding
from sft_speech.models.front_end import make_front_end
from sft_speech.tasks.pretraining.checkpoint import Checkpoint
from sft_speech.tasks.pretraining.model import pretraining_class

SIZES: dict[str, Any] = {
    "conv_dim": (8, 8),
    "conv_stride": (10, 8),
    "conv_kernel": (20, 8),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 5,
    "codevector_dim": 8,
    "proj_codevector_dim": 6,
    "feat_extract_norm": "layer",
    "mask_time_length": 4,
}
STILL = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "feat_quantizer_dropout",
     "layerdrop"),
    0.0,
)  # fmt: skip
PLAIN: dict[str, Any] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForPreTraining),
    "wav2vec2-conformer": (Wav2Vec2ConformerConfig, Wav2Vec2ConformerForPreTraining),
}


def plain_model(model_type: str = "wav2vec2", **overrides: Any) -> Any:
    """Return a tiny random model of transformers."""
    config, model = PLAIN[model_type]
    torch.manual_seed(0)
    if model_type != "wav2vec2":
        overrides = {"conv_depthwise_kernel_size": 5, "conformer_conv_dropout": 0.0, **overrides}
    return model(config(**{**SIZES, **STILL, **overrides}))


def tiny_checkpoint(model_type: str = "wav2vec2", **overrides: Any) -> Checkpoint:
    """Return the same model as a run pre-trains it."""
    plain = plain_model(model_type, **overrides)
    model = pretraining_class(type(plain))(plain.config)
    model.load_state_dict(plain.state_dict())
    front_end = make_front_end(plain.config, Wav2Vec2FeatureExtractor(return_attention_mask=True))
    return Checkpoint(exact_padding(model), front_end)


def saved(folder: Path, model_type: str = "wav2vec2", **overrides: Any) -> Path:
    """Save the model as plain transformers does, with its feature extractor."""
    plain_model(model_type, **overrides).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder
