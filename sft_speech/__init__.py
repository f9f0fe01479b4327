"""Fine-tune pretrained speech models on your own data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_speech.asr.checkpoint import load_checkpoint
    from sft_speech.asr.decoding import Decoding
    from sft_speech.asr.evaluate import evaluate_corpus
    from sft_speech.asr.transcriber import Transcriber
    from sft_speech.corpora import load_corpus
    from sft_speech.errors import UserError
    from sft_speech.tts.converter import Converter
    from sft_speech.tts.synthesizer import Synthesizer

__all__ = [
    "Converter",
    "Decoding",
    "Synthesizer",
    "Transcriber",
    "UserError",
    "evaluate_corpus",
    "load_checkpoint",
    "load_corpus",
]

_HOMES = {
    "Converter": "sft_speech.tts.converter",
    "Decoding": "sft_speech.asr.decoding",
    "Synthesizer": "sft_speech.tts.synthesizer",
    "Transcriber": "sft_speech.asr.transcriber",
    "UserError": "sft_speech.errors",
    "evaluate_corpus": "sft_speech.asr.evaluate",
    "load_checkpoint": "sft_speech.asr.checkpoint",
    "load_corpus": "sft_speech.corpora",
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for: importing the package alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sft_speech' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
