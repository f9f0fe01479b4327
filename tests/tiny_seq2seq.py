"""Tiny random recognizers that write text token by token, with tokenizers built here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
LANGUAGES = ("en", "zh", "de", "es")
SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
}
MOONSHINE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 2,
    "decoder_num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
}
STREAMING: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 300,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
KINDS = ("whisper", "whisper-en", "moonshine", "moonshine-streaming", "speech2text", "speech2text-many")


def whisper_tokenizer(seconds: float, multilingual: bool) -> Any:
    """Return a tokenizer of bytes, with the special tokens of Whisper and timestamps up to ``seconds``."""
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperTokenizer

    vocabulary = {byte: number for number, byte in enumerate(sorted(ByteLevel.alphabet()))}
    space = ByteLevel(add_prefix_space=False).pre_tokenize_str(" ")[0][0]
    merges = [(space, "t"), ("h", "e"), (f"{space}t", "he")]
    vocabulary |= {"".join(pair): len(vocabulary) + number for number, pair in enumerate(merges)}
    named = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    special = [f"<|{name}|>" for name in (*named, "nospeech", "notimestamps")]
    times = [f"<|{number * 0.02:.2f}|>" for number in range(round(seconds / 0.02) + 1)]
    vocabulary |= {name: len(vocabulary) + number for number, name in enumerate(special + times)}
    options = {"language": "en", "task": "transcribe"} if multilingual else {}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", **options)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in times])
    return tokenizer


def whisper(multilingual: bool, **changes: Any) -> tuple[Any, Any]:
    """Return the model and the processor of a Whisper; its clips have 4 seconds, or as many as its positions say."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    settings = {**SIZES, "num_mel_bins": 16, "max_source_positions": 200, "max_target_positions": 64, **changes}
    seconds = settings["max_source_positions"] // 50
    tokenizer = whisper_tokenizer(seconds, multilingual)
    id_of = tokenizer.convert_tokens_to_ids
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    start = id_of("<|startoftranscript|>")
    config = WhisperConfig(vocab_size=len(tokenizer), decoder_start_token_id=start, **ends, **settings)
    model = WhisperForConditionalGeneration(config)
    settings = {
        **ends,
        "decoder_start_token_id": start,
        "no_timestamps_token_id": id_of("<|notimestamps|>"),
        "prev_sot_token_id": id_of("<|startofprev|>"),
        "max_length": config.max_target_positions,
        "is_multilingual": multilingual,
        "return_timestamps": False,
        "max_initial_timestamp_index": 50,
        "alignment_heads": [[0, 0], [1, 1]],
        "suppress_tokens": [],
        "begin_suppress_tokens": [tokenizer.eos_token_id],
    }
    if multilingual:
        settings["lang_to_id"] = {f"<|{code}|>": id_of(f"<|{code}|>") for code in LANGUAGES}
        settings["task_to_id"] = {action: id_of(f"<|{action}|>") for action in ("transcribe", "translate")}
    model.generation_config = GenerationConfig(**settings)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)
    return model, WhisperProcessor(extractor, tokenizer)


def moonshine_tokenizer() -> Any:
    """Return a tokenizer of characters, and of bytes for the rest, like that of Moonshine."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def moonshine(**changes: Any) -> tuple[Any, Any]:
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration, Wav2Vec2FeatureExtractor
    from transformers import Wav2Vec2Processor as Processor

    tokenizer = moonshine_tokenizer()
    config = MoonshineConfig(vocab_size=len(tokenizer), **MOONSHINE | changes)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    return MoonshineForConditionalGeneration(config), Processor(extractor, tokenizer)


def moonshine_streaming(**changes: Any) -> tuple[Any, Any]:
    from transformers import (
        MoonshineStreamingConfig,
        MoonshineStreamingForConditionalGeneration,
        Wav2Vec2FeatureExtractor,
    )
    from transformers import MoonshineStreamingProcessor as Processor

    tokenizer = moonshine_tokenizer()
    own = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    encoder = {name: STREAMING[name] for name in own} | {"sliding_windows": [[16, 4], [16, 0]]}
    settings = {"encoder_config": encoder, **STREAMING, **changes}
    config = MoonshineStreamingConfig(vocab_size=len(tokenizer), **settings)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    return MoonshineStreamingForConditionalGeneration(config), Processor(extractor, tokenizer)


def speech2text_tokenizer(folder: Path, **options: Any) -> Any:
    """Return a tokenizer of lower-case letters, like that of Speech2Text, with its files in ``folder``."""
    import sentencepiece
    from transformers import Speech2TextTokenizer

    languages = [f"<lang:{code}>" for code in ("pt", "fr", "ru", "nl", "ro", "it", "es", "de")]
    letters = [letter for letter in LETTERS if letter == letter.lower()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(letters)]),
        model_prefix=str(folder / "letters"),
        model_type="char",
        vocab_size=4 + len(languages) + 1 + len(letters),
        user_defined_symbols=languages,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "letters.model"))
    vocabulary = {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return Speech2TextTokenizer(
        str(folder / "vocab.json"), str(folder / "letters.model"), **{"do_lower_case": True, **options}
    )


def speech2text(folder: Path, many: bool, **changes: Any) -> tuple[Any, Any]:
    """Return the model and the processor of a Speech2Text, which writes English or eight other languages."""
    from transformers import Speech2TextConfig, Speech2TextFeatureExtractor, Speech2TextForConditionalGeneration
    from transformers import Speech2TextProcessor as Processor

    # transformers' pipeline writes 256 tokens, and fails if the model has fewer positions
    own = {"conv_channels": 12, "max_source_positions": 600, "max_target_positions": 300}
    settings = {**SIZES, **own, "input_feat_per_channel": 16, **changes}
    options = {"lang_codes": "mustc", "tgt_lang": "de"} if many else {}
    tokenizer = speech2text_tokenizer(folder, **options)
    config = Speech2TextConfig(vocab_size=len(tokenizer.get_vocab()), **settings)
    bins = config.input_feat_per_channel
    extractor = Speech2TextFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    return Speech2TextForConditionalGeneration(config), Processor(extractor, tokenizer)


def randomized(model: Any, tokenizer: Any) -> Any:
    """Return a model whose norms and biases are random too: fresh ones would hide errors in padding.

    It writes what it hears, in a way, and letters: its tokens depend on the audio.
    """
    import torch
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding) and module.weight.requires_grad:
            nn.init.normal_(module.weight, std=0.5)
            if getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias, std=0.3)
    model.tie_weights()
    tokens = model.get_output_embeddings().weight
    readable = [tokenizer.decode([number]).strip() in set(LETTERS) for number in range(len(tokens))]
    with torch.no_grad():
        tokens[~torch.tensor(readable)] *= 0.1
        tokens[tokenizer.eos_token_id] *= 10
        last = [module for module in model.get_decoder().modules() if isinstance(module, nn.LayerNorm)][-1]
        last.weight *= torch.randn_like(last.weight)  # otherwise it repeats its last token: embeddings are tied
        for name, module in model.named_modules():
            if name.endswith(("encoder_attn.out_proj", "encoder_attn.o_proj")):
                module.weight *= 3
    return model.eval()


@pytest.fixture(scope="session")
def tiny_seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_seq2seq(kind, **config)` saves a random recognizer like the published ones.

    Its kind is one of :data:`KINDS`; "whisper" and "speech2text-many" write several languages. Do not change the
    directory.
    """
    kept: dict[str, Path] = {}

    def save(kind: str, **changes: Any) -> Path:
        import torch

        key = json.dumps([kind, changes])
        if key in kept:
            return kept[key]
        folder, files = tmp_path_factory.mktemp(kind), tmp_path_factory.mktemp("tokenizer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if kind == "moonshine":
                model, processor = moonshine(**changes)
            elif kind == "moonshine-streaming":
                model, processor = moonshine_streaming(**changes)
            elif kind.startswith("speech2text"):
                model, processor = speech2text(files, kind == "speech2text-many", **changes)
            else:
                model, processor = whisper(kind == "whisper", **changes)
            randomized(model, processor.tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)
        processor.feature_extractor.save_pretrained(folder)
        kept[key] = folder
        return folder

    return save


@pytest.fixture
def copied_seq2seq(tiny_seq2seq: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`copied_seq2seq(kind, **config)` copies such a directory, so that a test can damage it."""

    def copy(kind: str, **changes: Any) -> Path:
        return shutil.copytree(tiny_seq2seq(kind, **changes), tmp_path / kind, dirs_exist_ok=True)

    return copy
