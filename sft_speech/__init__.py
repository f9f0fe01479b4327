"""Fine-tune pretrained speech models on your own data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_speech.corpora import load_corpus
    from sft_speech.errors import UserError
    from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
    from sft_speech.tasks.asr.ctc.decoding import Decoding
    from sft_speech.tasks.asr.evaluate import evaluate_corpus
    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tasks.speech.synthesizer import Synthesizer
    from sft_speech.tasks.vc.converter import Converter

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
    "Converter": "sft_speech.tasks.vc.converter",
    "Decoding": "sft_speech.tasks.asr.ctc.decoding",
    "Synthesizer": "sft_speech.tasks.speech.synthesizer",
    "Transcriber": "sft_speech.tasks.asr.transcriber",
    "UserError": "sft_speech.errors",
    "evaluate_corpus": "sft_speech.tasks.asr.evaluate",
    "load_checkpoint": "sft_speech.tasks.asr.ctc.checkpoint",
    "load_corpus": "sft_speech.corpora",
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for: importing the package alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sft_speech' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
