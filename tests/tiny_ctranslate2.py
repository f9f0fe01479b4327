"""A tiny random Whisper, and a writer of CTranslate2's layout."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
TIMESTAMPS = ["<|0.00|>", "<|0.02|>", "<|0.04|>"]
SETTINGS = {
    "suppress_ids": [1, 2],
    "suppress_ids_begin": [3],
    "lang_ids": [],
    "alignment_heads": [[1, 0], [2, 1]],
}


@cache
def tokenizer(english: bool = False) -> Tokenizer:
    """Return a byte-level tokenizer without timestamps; for English with as many tokens as GPT-2's."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    tokens += [f"word{number}" for number in range(50256 - len(tokens))] if english else []
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, [("t", "h"), ("th", "e")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return made


def vocabulary(english: bool = False) -> list[str]:
    ids = tokenizer(english).get_vocab()
    return [*sorted(ids, key=ids.__getitem__), *TIMESTAMPS]


def whisper(seed: int = 0, english: bool = False, mels: int = 80, **sizes: Any) -> WhisperForConditionalGeneration:
    """Return a Whisper whose norms and biases are random too; 3 decoder layers, 2 encoder layers, of other widths."""
    torch.manual_seed(seed)
    tokens = vocabulary(english)
    given = {"d_model": 8, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 12, "decoder_ffn_dim": 16}
    given |= {"encoder_attention_heads": 2, "decoder_attention_heads": 4, "max_source_positions": 50}
    end = tokens.index(SPECIAL[0])
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end) | {"decoder_start_token_id": end + 1}
    given |= {"vocab_size": len(tokens), "num_mel_bins": mels, "max_target_positions": 20, **ends, **sizes}
    model = WhisperForConditionalGeneration(WhisperConfig(**given)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def arrays(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """Return the arrays of a Whisper as CTranslate2 names them."""
    weights = {name.removeprefix("model."): weight.numpy() for name, weight in model.state_dict().items()}
    config, found = model.config, {}
    scalars = {"activation": 3, "alibi": 0, "alibi_use_positive_positions": 0, "pre_norm": 1, "scale_embeddings": 0}
    found |= {f"decoder/{name}": np.int8(value) for name, value in scalars.items()}
    found |= {"decoder/alignment_heads": np.int16(1), "decoder/alignment_layer": np.int16(-1)}
    found["encoder/num_heads"] = np.int16(config.encoder_attention_heads)
    found["decoder/num_heads"] = np.int16(config.decoder_attention_heads)
    found["decoder/embeddings/weight"] = weights["decoder.embed_tokens.weight"]
    found["decoder/projection/weight"] = weights["proj_out.weight"]

    def put(source: str, *names: str) -> None:
        kinds = ("gamma", "beta") if "norm" in source else ("weight", "bias")
        width = len(weights[f"{names[0]}.weight"])
        for kind, name in zip(kinds, ("weight", "bias"), strict=True):
            parts = [weights.get(f"{one}.{name}", np.zeros(width, np.float32)) for one in names]
            found[f"{source}/{kind}"] = np.concatenate(parts)

    put("encoder/conv1", "encoder.conv1")
    put("encoder/conv2", "encoder.conv2")
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        found[f"{side}/position_encodings/encodings"] = weights[f"{side}.embed_positions.weight"]
        put(f"{side}/layer_norm", f"{side}.layer_norm")
        for layer in range(layers):
            to, name = f"{side}/layer_{layer}", f"{side}.layers.{layer}"
            put(f"{to}/self_attention/layer_norm", f"{name}.self_attn_layer_norm")
            put(f"{to}/self_attention/linear_0", *(f"{name}.self_attn.{one}_proj" for one in "qkv"))
            put(f"{to}/self_attention/linear_1", f"{name}.self_attn.out_proj")
            if side == "decoder":
                put(f"{to}/attention/layer_norm", f"{name}.encoder_attn_layer_norm")
                put(f"{to}/attention/linear_0", f"{name}.encoder_attn.q_proj")
                put(f"{to}/attention/linear_1", *(f"{name}.encoder_attn.{one}_proj" for one in "kv"))
                put(f"{to}/attention/linear_2", f"{name}.encoder_attn.out_proj")
            put(f"{to}/ffn/layer_norm", f"{name}.final_layer_norm")
            put(f"{to}/ffn/linear_0", f"{name}.fc1")
            put(f"{to}/ffn/linear_1", f"{name}.fc2")
    return found


def packed(
    values: Mapping[str, np.ndarray],
    kind: str = "float32",
    version: int = 6,
    architecture: str = "WhisperSpec",
    revision: int = 3,
) -> bytes:
    """Return the content of a ``model.bin``; like CTranslate2, store equal arrays once, under the first name.

    Args:
        kind: type in which to store the arrays of float32.
    """

    def text(content: str) -> bytes:
        return struct.pack("<H", len(content) + 1) + content.encode() + b"\0"

    def stored(array: np.ndarray) -> tuple[str, bytes]:
        if array.dtype != np.float32:
            return str(array.dtype), array.tobytes()
        tensor = torch.from_numpy(np.atleast_1d(array)).to(getattr(torch, kind))
        return kind, tensor.view(torch.uint8).numpy().tobytes()

    first: dict[tuple[tuple[int, ...], bytes], str] = {}
    entries, aliases = [], []
    for name in sorted(values):
        array = np.asarray(values[name])
        key = (array.shape, array.tobytes())
        if array.ndim and first.setdefault(key, name) != name:
            aliases.append(text(name) + text(first[key]))
            continue
        kept, content = stored(array)
        header = struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, TYPES.index(kept), len(content))
        entries.append(text(name) + header + content)
    head = struct.pack("<I", version) + text(architecture) + struct.pack("<I", revision)
    counted = [struct.pack("<I", len(part)) + b"".join(part) for part in (entries, aliases)]
    return head + b"".join(counted)


def write_folder(
    folder: Path, model: WhisperForConditionalGeneration, english: bool = False, kind: str = "float32"
) -> None:
    """Write the folder of a faster-whisper model."""
    folder.mkdir()
    (folder / "model.bin").write_bytes(packed(arrays(model), kind))
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary(english)))
    tokenizer(english).save(str(folder / "tokenizer.json"))
