"""A corpus of tones and a checkpoint that fits it, small enough to be trained in a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

WORDS = ("AH", "BEE", "SEA", "DO")
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEHOS"]
RATE = 16_000


def utterance(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Every word is a chord of its own, every speaker a little off key."""
    key, pieces = rng.uniform(0.95, 1.05), [np.zeros(800)]
    for word in words:
        time = np.arange(2400) / RATE
        pitch = key * 300 * (WORDS.index(word) + 1)
        pieces += [0.3 * np.sin(2 * np.pi * pitch * time) * np.hanning(2400), np.zeros(800)]
    return (np.concatenate(pieces) + rng.normal(0, 0.003, sum(map(len, pieces)))).astype(np.float32)


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """A LibriSpeech folder: train-tones (48 utterances, 3 speakers) and dev-tones (12, 1 speaker)."""
    root, rng = tmp_path_factory.mktemp("tones") / "LibriSpeech", np.random.default_rng(0)
    for subset, speakers, count in (("train-tones", (1, 2, 3), 16), ("dev-tones", (4,), 12)):
        for speaker in speakers:
            folder = root / subset / str(speaker) / "10"
            folder.mkdir(parents=True)
            lines = []
            for number in range(count):
                words = [str(word) for word in rng.choice(WORDS, int(rng.integers(1, 6)))]
                name = f"{speaker}-10-{number:04}"
                soundfile.write(folder / f"{name}.flac", utterance(words, rng), RATE)
                lines.append(f"{name} {' '.join(words)}\n")
            (folder / f"{speaker}-10.trans.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A random wav2vec2 of 30 thousand parameters, with its processor."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("small")
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(TOKENS),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 24, 32),
        conv_kernel=(20, 8, 4),
        conv_stride=(10, 8, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="group",
        do_stable_layer_norm=True,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(tones, small, tmp_path) -> list[str]:
    """The command line of a run of eight steps."""
    keys = {
        "model": small,
        "source": tones,
        "train_split": "train-tones",
        "eval_split": "dev-tones",
        "output_dir": tmp_path / "out",
        "max_batch_seconds": 6,
        "max_steps": 8,
        "eval_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "mask_time_length": 2,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    return ["finetune-asr", *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]
