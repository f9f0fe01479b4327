"""A tiny random transducer with a vocabulary of subwords."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_recognizers import SUBWORDS
from torch import nn

DURATIONS = [0, 1, 2, 3]


def write_transducer(folder: Path) -> None:
    """Write a checkpoint like those of Parakeet TDT, of which the search gives tokens and blanks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        ParakeetFeatureExtractor,
        ParakeetForTDT,
        ParakeetProcessor,
        ParakeetTDTConfig,
        ParakeetTokenizer,
    )

    tokens = ["<unk>", "<pad>", *SUBWORDS, "<blank>"]
    encoder = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 5, "subsampling_factor": 4,
        **dict.fromkeys(["dropout", "layerdrop", "attention_dropout", "activation_dropout"], 0.0),
    }  # fmt: skip
    config = ParakeetTDTConfig(
        vocab_size=len(tokens), decoder_hidden_size=16, num_decoder_layers=1, durations=DURATIONS,
        max_symbols_per_step=3, blank_token_id=len(tokens) - 1, pad_token_id=1, encoder_config=encoder,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ParakeetForTDT(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name in ("joint.head", "encoder_projector", "decoder.decoder_projector", "decoder.embedding"):
        nn.init.normal_(model.get_submodule(name).weight)
    with torch.no_grad():  # otherwise it writes the same token always, and never goes on
        clip = torch.randn(1, 400, 16)
        previous = torch.randint(0, len(tokens), (1, 60))
        logits = model.eval()(clip, torch.ones(1, 400), decoder_input_ids=previous).logits
        model.joint.head.bias -= logits.flatten(0, 2).mean(0)
        model.joint.head.bias[len(tokens) - 1] += 2.0
        model.joint.head.bias[[0, 1, len(tokens)]] -= 5.0  # special tokens, and a duration of 0
        model.joint.head.bias[len(tokens) :] -= 30.0  # plain transformers fails where a duration beats all tokens
    model.save_pretrained(folder)
    backend = Tokenizer(models.Unigram([(token, -1.0 / len(token)) for token in tokens], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<blank>"])
    tokenizer = ParakeetTokenizer(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    extractor = ParakeetFeatureExtractor(feature_size=16)
    ParakeetProcessor(extractor, tokenizer, decoder_type="tdt").save_pretrained(folder)
