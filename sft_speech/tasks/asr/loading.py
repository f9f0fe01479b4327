"""Recognizers by the architecture of their models: a folder of this package for each."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.text.codes import known_code

if TYPE_CHECKING:
    from sft_speech.tasks.asr.config import FinetuneAsrConfig
    from sft_speech.tasks.asr.recognizer import Recognizer
    from sft_speech.training.task import Task

# How a family's recognizers write text (``Family.recognizer``) to the package of that architecture, and its task.
ARCHITECTURES = {
    "ctc": ("sft_speech.tasks.asr.ctc", "CtcRecognition"),
    "tdt": ("sft_speech.tasks.asr.tdt", "TdtRecognition"),
    "seq2seq": ("sft_speech.tasks.asr.seq2seq", "Seq2SeqRecognition"),
}


def load_checkpoint(
    name: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    target_lang: str | None = None,
    **options: Any,
) -> Recognizer:
    """Load a recognizer of any architecture, for transcription.

    Args:
        name: a directory, also of an exported model, or an id on the Hub.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run code that comes with the checkpoint. Only for code that you have read.
        target_lang: adapter of a CTC checkpoint for many languages (MMS).
        options: of the ``load_checkpoint`` of its architecture.

    Raises:
        UserError: there is no such checkpoint, or it cannot be used.
    """
    from sft_speech.models.exported import exported_format

    if exported_format(name):
        from sft_speech.tasks.asr.exported import load_exported

        if target_lang:
            raise UserError(f"target_lang {target_lang}", f"{name} was exported with one language", "leave it out")
        exported: Recognizer = load_exported(name, options.get("language"))
        return exported
    package, _ = architecture_of(str(name), revision, trust_remote_code)
    if target_lang and package == ARCHITECTURES["seq2seq"][0]:
        do = f"leave it out, or give --language {known_code(target_lang) or target_lang}"
        raise UserError(f"target_lang {target_lang}", f"{name} has no adapters for languages", do)
    if target_lang:
        options["target_lang"] = target_lang
    # A model with code of its own is of an unknown family, which is taken to be CTC.
    if trust_remote_code and package == ARCHITECTURES["ctc"][0]:
        options["trust_remote_code"] = True
    checkpoint: Recognizer = importlib.import_module(f"{package}.checkpoint").load_checkpoint(
        name, revision=revision, **options
    )
    return checkpoint


def build(config: FinetuneAsrConfig) -> Task[FinetuneAsrConfig]:
    """Return the task of a run by the architecture of its checkpoint."""
    package, task = architecture_of(config.checkpoint, config.revision, config.trust_remote_code)
    built: Task[FinetuneAsrConfig] = getattr(importlib.import_module(f"{package}.task"), task)(config)
    return built


def architecture_of(name: str, revision: str | None, trust_remote_code: bool) -> tuple[str, str]:
    """Return the package and the task of a checkpoint's architecture.

    Raises:
        UserError: there is no such checkpoint, or its configuration cannot be read.
    """
    from sft_speech.models.families import family_of
    from sft_speech.models.load import read_config

    return ARCHITECTURES[
        family_of(read_config(name, revision=revision, trust_remote_code=trust_remote_code)).recognizer
    ]
