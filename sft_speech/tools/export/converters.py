"""Models for CTranslate2, and for the converter of whisper.cpp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.errors import UserError, first_line
from sft_speech.tools.export.graphs import BESIDE

LISTS = ("suppress_ids", "suppress_ids_begin")  # of CTranslate2's config.json, which may be null


def write_ctranslate2(plain: Path, output: Path, int8: bool) -> None:
    """Write ``model.bin`` and what belongs to it by CTranslate2's converter, and the files of the checkpoint.

    ``config.json`` holds the settings of both; their names differ.

    Raises:
        UserError: the converter cannot do it.
    """
    from ctranslate2.converters import TransformersConverter

    from sft_speech.models.load import quiet

    try:
        with quiet():
            converter = TransformersConverter(str(plain))
            converter.convert(str(output / "made"), quantization="int8" if int8 else "float32")
    except Exception as error:  # the converter raises errors of its own
        why = f"CTranslate2 cannot convert it ({first_line(error)})"
        raise UserError("the model", why, "see the whole error with --debug; use another --to") from error
    for pattern in BESIDE:
        for file in plain.glob(pattern):
            shutil.copyfile(file, output / file.name)
    config = json.loads((plain / "config.json").read_text("utf-8"))
    for file in (output / "made").iterdir():
        if file.name != "config.json":
            file.replace(output / file.name)
    own = json.loads((output / "made" / "config.json").read_text("utf-8"))
    config |= own | {name: own[name] or [] for name in LISTS if name in own}
    (output / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(output / "made")


def write_ggml_ready(checkpoint: Any, plain: Path, output: Path) -> None:
    """Write a plain directory that ``convert-h5-to-ggml.py`` of whisper.cpp takes.

    It reads the weights by transformers, the sizes from config.json, the tokens from vocab.json without those that are
    added, and the mel filters from OpenAI's repository, in whose place the directory holds them too.
    """
    for file in plain.iterdir():
        shutil.copyfile(file, output / file.name)
    config = json.loads((plain / "config.json").read_text("utf-8"))
    config["max_length"] = config["max_target_positions"]  # it reads this key, and takes no null
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    ids = checkpoint.transcripts.tokenizer.get_vocab()
    end = checkpoint.transcripts.end
    ordered = sorted(ids.items(), key=lambda item: item[1])
    files = {"vocab.json": {one: id for one, id in ordered if id < end}}
    files["added_tokens.json"] = {one: id for one, id in ordered if id >= end}
    for name, tokens in files.items():
        (output / name).write_text(json.dumps(tokens, ensure_ascii=False) + "\n", encoding="utf-8")
    filters = np.asarray(checkpoint.front_end.extractor.mel_filters, np.float32).T  # (mels, frequencies)
    (output / "whisper" / "assets").mkdir(parents=True)
    named: Any = {f"mel_{len(filters)}": filters}
    np.savez_compressed(output / "whisper" / "assets" / "mel_filters.npz", **named)
