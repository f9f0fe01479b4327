"""Conversion of a dataset's audio, in any form, to the encoded files of a corpus."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sft_speech.audio.codecs import AudioError, wav_bytes
from sft_speech.corpora.mapped import mapped
from sft_speech.corpora.rows import new_fingerprint
from sft_speech.errors import UserError

if TYPE_CHECKING:
    import datasets

_ARRAYS = 256  # decoded clips that are encoded at a time


def encoded_column(
    dataset: datasets.Dataset, found: Mapping[str, str], rate: int | None
) -> tuple[datasets.Dataset, dict[int, AudioError]]:
    """Return the encoded audio in a column "audio", and the errors of the rows that could not be encoded."""
    import datasets

    column, feature = found["audio"], dataset.features[found["audio"]]
    if isinstance(feature, datasets.Value):
        return _of_values(dataset, column, feature.dtype), {}
    if isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and "array" not in feature):
        audio = dataset.select_columns([column]).cast_column(column, datasets.Audio(decode=False))
        return audio if column == "audio" else audio.rename_column(column, "audio"), {}
    chunks: list[pa.Array] = []
    errors: dict[int, AudioError] = {}
    kind = datasets.Audio().pa_type
    arrays = dataset.select_columns(list({column, found.get("rate", column)})).with_format("arrow")
    for number, batch in enumerate(arrays.iter(_ARRAYS)):
        rates = batch[found["rate"]].to_pylist() if "rate" in found else [rate] * len(batch)
        clips: list[dict[str, Any] | None] = []
        for place, (value, known) in enumerate(zip(batch[column], rates, strict=True)):
            try:
                clips.append(encoded(_from_arrow(value), known))
            except AudioError as error:
                errors[number * _ARRAYS + place] = error
                clips.append(None)
        chunks.append(pa.array(clips, kind))
    table = mapped(pa.table({"audio": pa.chunked_array(chunks, kind)}))
    return datasets.Dataset(table, _audio_info(), fingerprint=new_fingerprint()), errors


def _of_values(dataset: datasets.Dataset, column: str, dtype: str) -> datasets.Dataset:
    """Return the audio of a column of paths or of the bytes of files; nothing is copied.

    Raises:
        UserError: the column holds something else.
    """
    import datasets

    if not dtype.endswith(("string", "binary")):
        raise UserError(f"column {column}", f"it holds no audio: {dtype}", "name another column")
    place = int(dtype.endswith("string"))
    kinds, chunks = (pa.binary(), pa.string()), []
    for chunk in dataset.data.column(column).chunks:
        fields = [pa.nulls(len(chunk), kind) for kind in kinds]
        fields[place] = chunk.cast(kinds[place])
        chunks.append(pa.StructArray.from_arrays(fields, ["bytes", "path"], mask=chunk.is_null()))
    table = datasets.table.InMemoryTable(pa.table({"audio": pa.chunked_array(chunks, datasets.Audio().pa_type)}))
    return datasets.Dataset(table, _audio_info(), indices_table=dataset._indices, fingerprint=new_fingerprint())


def _audio_info() -> datasets.DatasetInfo:
    import datasets

    return datasets.DatasetInfo(features=datasets.Features({"audio": datasets.Audio(decode=False)}))


def _from_arrow(value: pa.Scalar) -> Any:
    """Convert a value of an Arrow table for :func:`encoded`: lists become arrays, without Python objects in between."""
    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        return {name: _from_arrow(value[name]) for name in value}
    if isinstance(value, pa.ExtensionScalar):
        return np.array(value.as_py())
    if isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        nested = value.values
        flat = pa.types.is_integer(nested.type) or pa.types.is_floating(nested.type)
        return nested.to_numpy(zero_copy_only=False) if flat else np.array(nested.to_pylist())
    return value.as_py()


def encoded(value: Any, rate: int | None) -> dict[str, Any] | None:
    """Return a clip as ``{"path", "bytes"}``.

    Args:
        value: a path, bytes, ``{"path", "bytes"}``, ``{"array", "sampling_rate"}``, an array, or None.
        rate: samples per second of an array.

    Raises:
        AudioError: the array is not a waveform, or has no rate.
    """
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return {"path": os.fspath(value), "bytes": None}
    if isinstance(value, bytes):
        return {"path": None, "bytes": value}
    path = None
    if isinstance(value, Mapping):
        if value.get("array") is None:
            return {"path": value.get("path"), "bytes": value.get("bytes")}
        value, rate, path = value["array"], value.get("sampling_rate", rate), value.get("path")
    return {"path": path, "bytes": wav_bytes(np.asarray(value), rate)}
