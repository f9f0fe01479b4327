"""Whisper in the layout of CTranslate2, which faster-whisper reads: named arrays in one file, ``model.bin``.

The layout is that of ``ctranslate2/specs/model_spec.py``: little-endian; a version, the name and revision of the
architecture; the arrays, each with name, shape, type and size in bytes; the names that share an array.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from sft_speech.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from transformers import WhisperConfig

VERSION = 6  # of the file
ARCHITECTURE, REVISION = "WhisperSpec", 3
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")  # in the order of their numbers in the file
# numpy has no bfloat16, which is the upper half of a float32
_STORED = {"float32": "<f4", "int8": "<i1", "int16": "<i2", "int32": "<i4", "float16": "<f2", "bfloat16": "<u2"}
_MAX_DIMENSIONS = 4
_GELU = 3  # number of the activation
# Switches of CTranslate2's decoder. All others are off in a Whisper, except those for alignment, which it ignores.
_SWITCHES = {"decoder/activation": _GELU, "decoder/pre_norm": 1}
_IGNORED = ("decoder/alignment_heads", "decoder/alignment_layer")
_HEADS = ("encoder/num_heads", "decoder/num_heads")
_CONVERT = "convert the original model again with a current ct2-transformers-converter, or use the original"


class Array(NamedTuple):
    """An array as it is stored, without a copy; ``bfloat16`` as 16-bit integers."""

    kind: str
    values: np.ndarray

    def float32(self) -> np.ndarray:
        """Return a copy in float32, which is exact for all three floating types."""
        if self.kind == "bfloat16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return self.values.astype(np.float32)


class _Reader:
    """Reads values one after another from a mapped file, and never beyond its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        with open(path, "rb") as file:
            try:
                self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:  # an empty file
                raise self.damaged() from error

    def damaged(self, what: str = "it ends too early") -> UserError:
        return UserError(
            str(self.path), f"it is damaged ({what}, byte {self.at:,})", "download or copy the model again"
        )

    def _advance(self, size: int) -> int:
        start = self.at
        if size > len(self.content) - start:
            raise self.damaged()
        self.at += size
        return start

    def number(self, form: Literal["B", "H", "I"]) -> int:
        """Return an unsigned integer of 1, 2 or 4 bytes."""
        return struct.unpack_from("<" + form, self.content, self._advance(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        """Return a string, stored with its length and a zero byte at its end."""
        size = self.number("H")
        start = self._advance(size)
        try:
            text = self.content[start : start + size].decode("ascii")
        except UnicodeDecodeError as error:
            raise self.damaged("a name that is not text") from error
        if not text.endswith("\0") or not text[:-1].isprintable():
            raise self.damaged("a name that is not text")
        return text[:-1]

    def array(self) -> Array:
        dimensions = self.number("B")
        if dimensions > _MAX_DIMENSIONS:
            raise self.damaged(f"an array of {dimensions} dimensions")
        shape = [self.number("I") for _ in range(dimensions)]
        kind, size = self.number("B"), self.number("I")
        if kind >= len(TYPES):
            raise self.damaged(f"an array of the unknown type {kind}")
        stored, count = np.dtype(_STORED[TYPES[kind]]), math.prod(shape)
        if count == 0 or count * stored.itemsize != size:
            raise self.damaged(f"{size:,} bytes for an array of shape {shape}")
        start = self._advance(size)
        return Array(TYPES[kind], np.frombuffer(self.content, stored, count, start).reshape(shape))


def read_arrays(path: Path) -> dict[str, Array]:
    """Map a ``model.bin`` into memory and return its arrays by name.

    Raises:
        UserError: it is damaged, of another version of the layout, of another architecture, or quantized.
    """
    reader = _Reader(path)
    version = reader.number("I")
    if version != VERSION:
        why = f"it starts with the number {version}, not {VERSION}: another version of CTranslate2's layout, or"
        raise UserError(str(path), f"{why} not a CTranslate2 model", _CONVERT)
    architecture, revision = reader.text(), reader.number("I")
    if architecture != ARCHITECTURE:
        raise UserError(str(path), f"it holds a {architecture}, not a Whisper", "give the folder of a Whisper")
    if revision != REVISION:
        why = f"it is revision {revision} of CTranslate2's Whisper; only {REVISION} is supported"
        raise UserError(str(path), why, _CONVERT)
    arrays: dict[str, Array] = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        if name in arrays:
            raise reader.damaged(f"two arrays {name}")
        arrays[name] = reader.array()
    for _ in range(reader.number("I")):
        name, target = reader.text(), reader.text()
        if name in arrays or target not in arrays:
            raise reader.damaged(f"{name} cannot share {target}")
        arrays[name] = arrays[target]
    if reader.at != len(reader.content):
        raise reader.damaged("more data than it declares")
    quantized = next((one.kind for one in arrays.values() if one.kind.startswith("int") and one.values.ndim), None)
    if quantized is not None:
        why = f"its weights are quantized ({quantized}), and what they were rounded from is lost"
        raise UserError(str(path), why, "use the original model, or one converted to float16, bfloat16 or float32")
    return arrays


class Whisper(NamedTuple):
    """A Whisper for transformers.

    Args:
        config: sizes only; the special tokens are the tokenizer's.
        weights: float32, by the names of ``WhisperForConditionalGeneration``.
        kind: type of the weights in the file.
    """

    config: WhisperConfig
    weights: dict[str, torch.Tensor]
    kind: str


def read_whisper(path: Path) -> Whisper:
    """Read the sizes and weights of a Whisper from a ``model.bin``.

    Raises:
        UserError: see :func:`read_arrays`; or the arrays are not those of a Whisper.
    """
    import torch
    from transformers import WhisperForConditionalGeneration

    arrays = read_arrays(path)
    tied = _is_tied(arrays)
    sources = dict(_sources(_layers(arrays, "encoder"), _layers(arrays, "decoder"), tied))
    settings = {name for name, one in arrays.items() if not one.values.ndim}
    wanted = {source for source, _, _ in sources.values()} | ({"decoder/projection/weight"} if tied else set())
    _check_names(path, wanted | set(_HEADS), arrays.keys() - (settings - set(_HEADS)))
    for name in settings - {*_HEADS, *_IGNORED}:
        if arrays[name].values != _SWITCHES.get(name, 0):
            raise _unlike(path, f"{name} is {arrays[name].values}")
    config = _config(path, arrays, tied)
    try:
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config)
    except Exception as error:  # sizes for which transformers makes no model, such as two channels
        raise _unlike(path, first_line(error)) from error
    shapes = {name: list(one.shape) for name, one in model.state_dict().items()}
    weights = {}
    for name, (source, part, parts) in sources.items():
        kind, values = arrays[source]
        rows, rest = divmod(len(values), parts)
        values = Array(kind, values[part * rows : (part + 1) * rows]).float32()
        if rest or list(values.shape) != shapes[name]:
            raise _unlike(path, f"{source} has the shape {list(arrays[source].values.shape)}")
        if not np.isfinite(values).all():
            raise _unlike(path, f"{source} has values that are not finite")
        weights[name] = torch.from_numpy(values)
    if tied:
        weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    return Whisper(config, weights, arrays["decoder/embeddings/weight"].kind)


def _unlike(path: Path, what: str) -> UserError:
    return UserError(str(path), f"it isn't a Whisper, or it is damaged: {what}", _CONVERT)


def _is_tied(arrays: Mapping[str, Array]) -> bool:
    """Return whether the embeddings are also the weights of the output."""
    embeddings, output = (arrays.get(f"decoder/{name}/weight") for name in ("embeddings", "projection"))
    return embeddings is output


def _layers(arrays: Mapping[str, Array], side: str) -> int:
    """Return how many layers the names of the arrays mention, whatever their numbers."""
    return len({found[1] for name in arrays if (found := re.match(rf"{side}/layer_(\d+)/", name))}) or 1


def _check_names(path: Path, wanted: set[str], found: set[str]) -> None:
    for what, names in (("it lacks {}", wanted - found), ("it also has {}", found - wanted)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise _unlike(path, what.format(f"{min(names)}{more}"))


def _config(path: Path, arrays: Mapping[str, Array], tied: bool) -> WhisperConfig:
    """Deduce the sizes of a model from the shapes of its arrays."""
    from transformers import WhisperConfig

    def size(name: str, axis: int = 0) -> int:
        shape = arrays[name].values.shape
        if axis >= len(shape):
            raise _unlike(path, f"{name} has the shape {list(shape)}")
        return shape[axis]

    width = size("decoder/embeddings/weight", 1)
    heads = [arrays[name] for name in _HEADS]
    if not all(one.kind.startswith("int") and one.values.ndim == 0 and one.values > 0 for one in heads):
        raise _unlike(path, "it has no number of heads")
    encoder_heads, decoder_heads = (int(one.values) for one in heads)
    return WhisperConfig(
        vocab_size=size("decoder/embeddings/weight"),
        d_model=width,
        num_mel_bins=size("encoder/conv1/weight", 1),
        encoder_layers=_layers(arrays, "encoder"),
        decoder_layers=_layers(arrays, "decoder"),
        encoder_attention_heads=encoder_heads,
        decoder_attention_heads=decoder_heads,
        encoder_ffn_dim=size("encoder/layer_0/ffn/linear_0/weight"),
        decoder_ffn_dim=size("decoder/layer_0/ffn/linear_0/weight"),
        max_source_positions=size("encoder/position_encodings/encodings"),
        max_target_positions=size("decoder/position_encodings/encodings"),
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        decoder_start_token_id=0,  # it may not be None
    )


def _sources(encoder_layers: int, decoder_layers: int, tied: bool) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """Yield the name of each weight in transformers, and where it comes from: an array, which part, of how many.

    CTranslate2 stacks the weights of projections that have the same input.
    """

    def linear(to: str, source: str, part: int = 0, parts: int = 1) -> Iterator[tuple[str, tuple[str, int, int]]]:
        yield f"{to}.weight", (f"{source}/weight", part, parts)
        if not to.endswith("k_proj"):  # it has no bias (CTranslate2 stores zeros), which attention would not notice
            yield f"{to}.bias", (f"{source}/bias", part, parts)

    def norm(to: str, source: str) -> Iterator[tuple[str, tuple[str, int, int]]]:
        yield f"{to}.weight", (f"{source}/gamma", 0, 1)
        yield f"{to}.bias", (f"{source}/beta", 0, 1)

    yield "model.decoder.embed_tokens.weight", ("decoder/embeddings/weight", 0, 1)
    if not tied:
        yield "proj_out.weight", ("decoder/projection/weight", 0, 1)
    yield from linear("model.encoder.conv1", "encoder/conv1")
    yield from linear("model.encoder.conv2", "encoder/conv2")
    for side, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        yield f"model.{side}.embed_positions.weight", (f"{side}/position_encodings/encodings", 0, 1)
        yield from norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(layers):
            to, source = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            yield from norm(f"{to}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                yield from linear(f"{to}.self_attn.{name}", f"{source}/self_attention/linear_0", part, 3)
            yield from linear(f"{to}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            if side == "decoder":
                yield from norm(f"{to}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
                yield from linear(f"{to}.encoder_attn.q_proj", f"{source}/attention/linear_0")
                for part, name in enumerate(("k_proj", "v_proj")):
                    yield from linear(f"{to}.encoder_attn.{name}", f"{source}/attention/linear_1", part, 2)
                yield from linear(f"{to}.encoder_attn.out_proj", f"{source}/attention/linear_2")
            yield from norm(f"{to}.final_layer_norm", f"{source}/ffn/layer_norm")
            yield from linear(f"{to}.fc1", f"{source}/ffn/linear_0")
            yield from linear(f"{to}.fc2", f"{source}/ffn/linear_1")
