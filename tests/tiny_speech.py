"""Tiny SpeechT5 models, built from configurations."""

from __future__ import annotations

import csv
from functools import partial

import pytest
import torch
from transformers import SpeechT5Config, SpeechT5ForSpeechToSpeech, SpeechT5ForTextToSpeech, set_seed

SMALL = {
    "vocab_size": 20,
    "hidden_size": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 10,
    "speech_decoder_prenet_units": 24,
    "speech_decoder_postnet_units": 24,
    "speech_decoder_postnet_layers": 3,
    "speaker_embedding_dim": 16,
    "max_speech_positions": 400,
    "max_text_positions": 100,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embedding_groups": 4,
    "num_conv_pos_embeddings": 16,
}
SILENT = dict.fromkeys(
    (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "positional_dropout",
        "encoder_layerdrop",
        "decoder_layerdrop",
        "speech_decoder_postnet_dropout",
    ),
    0.0,
)


def builder(kind):
    """Return ``build(**config)``, which makes a model without random numbers in its forward pass."""

    def build(**config):
        set_seed(0)
        model = kind(SpeechT5Config(**SMALL | SILENT | config))
        # Its dropout is active in evaluation too, and transformers takes the rate as the share to keep: 0 drops all.
        model.speecht5.decoder.prenet._consistent_dropout = lambda hidden, p: hidden
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):  # like trained ones
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        return model

    return build


@pytest.fixture
def tiny_tts():
    return builder(SpeechT5ForTextToSpeech)


@pytest.fixture(scope="session")
def tiny_converter():
    return partial(builder(SpeechT5ForSpeechToSpeech), apply_spec_augment=False)


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'-"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer of characters, like that of SpeechT5."""
    import sentencepiece
    from transformers import SpeechT5Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(LETTERS)] * 50),
        model_prefix=str(folder / "spm_char"),
        model_type="char",
        vocab_size=len(LETTERS) + 5,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return SpeechT5Tokenizer(str(folder / "spm_char.model"))


@pytest.fixture(scope="session")
def tiny_speaker(tmp_path_factory, tokenizer):
    """Directory of a tiny model for speech synthesis, with two voices."""
    from transformers import SpeechT5FeatureExtractor

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
    from sft_speech.tasks.speech.speakers import MelStatistics, Speakers

    set_seed(0)
    sizes = {"vocab_size": len(tokenizer), "num_mel_bins": 20, "max_text_positions": 60, "max_speech_positions": 200}
    model = SpeechT5ForTextToSpeech(SpeechT5Config(**SMALL | sizes)).eval()
    voices = Speakers({"anna": torch.randn(16), "bob": torch.randn(16)}, 16, MelStatistics.name)
    folder = tmp_path_factory.mktemp("speaker")
    SpeechCheckpoint(model, tokenizer, SpeechT5FeatureExtractor(num_mel_bins=20), voices).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_conversion(tmp_path_factory, tokenizer, tiny_converter):
    """Directory of a tiny model for voice conversion, with one voice."""
    from transformers import SpeechT5FeatureExtractor

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
    from sft_speech.tasks.speech.speakers import MelStatistics, Speakers

    set_seed(0)
    front_end = {"conv_stride": (20, 16), "conv_kernel": (40, 16)}  # 50 frames per second
    model = tiny_converter(vocab_size=len(tokenizer), num_mel_bins=20, max_speech_positions=400, **front_end)
    voices = Speakers({"anna": torch.randn(16)}, 16, MelStatistics.name)
    folder = tmp_path_factory.mktemp("converter")
    SpeechCheckpoint(model, tokenizer, SpeechT5FeatureExtractor(num_mel_bins=20), voices).save(folder)
    return folder


@pytest.fixture(scope="session")
def write_metadata():
    """``write_metadata(folder, rows)`` makes a folder of recordings a corpus."""

    def write(folder, rows):
        with open(folder / "metadata.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "text", "speaker"])
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_x_vectors(tmp_path_factory):
    """``tiny_x_vectors(head)`` saves a tiny x-vector model with embeddings of 32 numbers, or one without a head."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForXVector, Wav2Vec2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (20, 16), "num_conv_pos_embeddings": 4}
    tdnn = {"tdnn_dim": (16, 16), "tdnn_kernel": (3, 1), "tdnn_dilation": (1, 1), "xvector_output_dim": 32}

    def save(head=True):
        folder = tmp_path_factory.mktemp("x-vectors")
        config = Wav2Vec2Config(**sizes, **convolutions, **tdnn, num_conv_pos_embedding_groups=2)
        (Wav2Vec2ForXVector if head else Wav2Vec2Model)(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
        return str(folder)

    return save
