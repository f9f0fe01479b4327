"""A corpus of hums in three pitches, and tiny checkpoints of every kind of input."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

RATE = 16_000
PITCHES = {"high": 900, "low": 200, "mid": 450}


def hum(label: str, seconds: float, seed: int) -> np.ndarray:
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    pitch = PITCHES[label] * rng.uniform(0.95, 1.05)
    return (0.3 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.01, len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def hums(tmp_path_factory) -> Path:
    """An audiofolder of 36 clips of two speakers, 0.3 to 0.6 s long; its labels are in the column `pitch`."""
    folder = tmp_path_factory.mktemp("hums")
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "speaker", "pitch"])
        for number in range(36):
            label, speaker = sorted(PITCHES)[number % 3], ("anna", "bob")[number // 3 % 2]
            soundfile.write(folder / f"{number}.wav", hum(label, 0.3 + 0.01 * (number % 30), number), RATE)
            table.writerow([f"{number}.wav", speaker, label])
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory, tiny_directory):
    """`tiny_encoder(kind)`: directory of a pretrained checkpoint without a head for classes; or the name convnet."""

    def build(kind: str) -> str:
        import transformers

        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(kind)
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
        if kind == "whisper":
            config = transformers.WhisperConfig(
                vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=16,
                max_source_positions=200, max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=3,
            )  # fmt: skip
            transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
            transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=4).save_pretrained(folder)
        elif kind == "ast":
            config = transformers.ASTConfig(**sizes, max_length=96, num_mel_bins=16)
            transformers.ASTModel(config).save_pretrained(folder)
            transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=96).save_pretrained(folder)
        elif kind == "convnet":
            return kind
        else:
            return str(tiny_directory(kind, vocabulary=None))
        return str(folder)

    return build


@pytest.fixture
def settings():
    """`settings(model, **keys)`: a configuration."""
    from sft_speech.tasks.classification.config import FinetuneClassificationConfig

    def build(model: str, **keys):
        return FinetuneClassificationConfig(model=model, source="corpus", output_dir="out", **keys)

    return build
