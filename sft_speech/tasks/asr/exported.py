"""Recognizers that were exported for another runtime: chunks, times and beam search are those of the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.models.exported import FORMATS, ExportedModel, exported_format, open_session
from sft_speech.models.families import family_of
from sft_speech.models.front_end import make_front_end, read_extractor
from sft_speech.models.load import read_config
from sft_speech.text.codes import language_code

WHERE: dict[str, Any] = {"revision": "main", "trust_remote_code": False}


def load_exported(name: str | Path, language: str | None = None) -> Any:
    """Load an exported recognizer.

    Args:
        name: its directory.
        language: as ``load_checkpoint`` takes it.

    Raises:
        UserError: the directory is damaged, or its runtime is not installed.
    """
    name = str(name)
    config = read_config(name)
    kind = family_of(config).recognizer
    if kind == "seq2seq":
        from sft_speech.tasks.asr.seq2seq.ctranslate2 import load_whisper

        return load_whisper(name, config, language)
    if kind != "ctc":
        format = FORMATS[exported_format(name) or ""].title
        raise UserError(name, f"a {config.model_type} model in {format} is not supported", "use the original model")
    return load_ctc(name, config, language)


def load_ctc(name: str, config: Any, language: str | None) -> Any:
    """Load an exported CTC model.

    Raises:
        UserError: its vocabulary is missing.
    """
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint, own_vocabulary, written_language

    code = language_code(language) if language else None
    front_end = make_front_end(config, read_extractor(name, WHERE, config))
    vocabulary, _ = own_vocabulary(Checkpoint, name, WHERE, config, None, code)
    if vocabulary is None:
        raise UserError(name, "its vocabulary is missing", "export the model again: sft-speech export")
    if not code:
        vocabulary = vocabulary.in_language(written_language(name, config, vocabulary, None))
    model: Any = ExportedModel(config, open_session(name))
    return Checkpoint(model.eval(), front_end, vocabulary, [])
