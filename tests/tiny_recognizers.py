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
SUBWORDS = ["▁", *LETTERS.lower(), "▁th", "▁the", "he", "in", "ing", "▁a", "er", "▁s"]
CONFORMER = {"num_mel_bins": 16, "layerdrop": 0.0}
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
    "parakeet": ("Parakeet", {**CONFORMER, "subsampling_conv_channels": 8, "conv_kernel_size": 5}),
    "lasr": ("Lasr", {**CONFORMER, "subsampling_conv_channels": 8, "conv_kernel_size": 8}),
    "granite": ("GraniteSpeech5", {**CONFORMER, "context_size": 8, "max_position_embeddings": 8}),
}
OF_SUBWORDS = {"parakeet": "ParakeetTokenizer", "lasr": "LasrTokenizer", "granite": "ParakeetTokenizer"}


def config_of(family: str, **changes: Any) -> Any:
    """The configuration of a tiny model; `changes` are those of its encoder, if it has one apart."""
    import transformers

    name, own = FAMILIES[family]
    settings = {**SIZES, "vocab_size": len(VOCABULARY), "pad_token_id": 0, "layerdrop": 0.0, **own, **changes}
    if family not in OF_SUBWORDS:
        return getattr(transformers, f"{name}Config")(**settings)
    size = changes.get("vocab_size", len(SUBWORDS) + 2)
    blank = size - 1 if family == "parakeet" else 0
    encoder = {**settings, "vocab_size": size}
    return getattr(transformers, f"{name}CTCConfig")(vocab_size=size, pad_token_id=blank, encoder_config=encoder)


def subword_tokenizer(family: str) -> Any:
    """A tokenizer as in the checkpoints of the family: of unigrams, with the blank last (Parakeet) or first."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = ["<unk>", *SUBWORDS, "<pad>"] if family == "parakeet" else ["<pad>", "<unk>", *SUBWORDS]
    scores = [(token, -1.0 / len(token)) for token in tokens]
    if family == "lasr":
        return transformers.LasrTokenizer(vocab=scores, extra_ids=0)
    backend = Tokenizer(models.Unigram(scores, unk_id=tokens.index("<unk>")))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return transformers.ParakeetTokenizer(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


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

        from sft_speech.models.families import family_of

        name, _ = FAMILIES[family]
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCTC")(config_of(family, **changes))
        for module in model.modules():
            if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d)) and module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                if module.bias is not None:
                    nn.init.normal_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        nn.init.normal_(model.get_submodule(family_of(model.config).head[0]).weight)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> Callable[..., Path]:
    """`tiny_directory(family, vocabulary=..., **config)` saves such a model like the checkpoints of its family."""
    kept: dict[str, Path] = {}

    def save(family: str, vocabulary: dict[str, int] | None = VOCABULARY, **changes: Any) -> Path:
        from transformers import Wav2Vec2CTCTokenizer

        from sft_speech.models.front_end import default_extractor, wants_mask

        key = json.dumps([family, vocabulary, changes])
        if key in kept:
            return kept[key]
        folder = tmp_path_factory.mktemp(family)
        model = tiny_model(family, **changes)
        model.save_pretrained(folder)
        extractor: Any = default_extractor(model.config)
        extractor.return_attention_mask = wants_mask(model.config)
        extractor.save_pretrained(folder)
        if vocabulary is VOCABULARY and family in OF_SUBWORDS:
            subword_tokenizer(family).save_pretrained(folder)
        elif vocabulary is not None:
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
