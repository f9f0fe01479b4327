"""Fine-tune pretrained speech models on your own data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft_speech.corpora import load_corpus
    from sft_speech.errors import UserError
    from sft_speech.tasks.asr.ctc.decoding import Decoding
    from sft_speech.tasks.asr.evaluate import evaluate_corpus
    from sft_speech.tasks.asr.loading import load_checkpoint
    from sft_speech.tasks.asr.pseudo.filters import Filters
    from sft_speech.tasks.asr.pseudo.label import pseudo_label
    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tasks.classification.classifier import Classifier
    from sft_speech.tasks.finetune import finetune
    from sft_speech.tasks.tts.synthesizer import Synthesizer
    from sft_speech.tasks.vc.converter import VoiceConverter
    from sft_speech.tools.self_train.self_train import self_train
    from sft_speech.training.run import FinetuneResult

__all__ = [
    "Classifier",
    "Decoding",
    "Filters",
    "FinetuneResult",
    "Synthesizer",
    "Transcriber",
    "UserError",
    "VoiceConverter",
    "evaluate_corpus",
    "finetune",
    "load_checkpoint",
    "load_corpus",
    "pseudo_label",
    "self_train",
]

_MODULES = {
    "Classifier": "sft_speech.tasks.classification.classifier",
    "Decoding": "sft_speech.tasks.asr.ctc.decoding",
    "Filters": "sft_speech.tasks.asr.pseudo.filters",
    "FinetuneResult": "sft_speech.training.run",
    "Synthesizer": "sft_speech.tasks.tts.synthesizer",
    "Transcriber": "sft_speech.tasks.asr.transcriber",
    "UserError": "sft_speech.errors",
    "VoiceConverter": "sft_speech.tasks.vc.converter",
    "evaluate_corpus": "sft_speech.tasks.asr.evaluate",
    "finetune": "sft_speech.tasks.finetune",
    "load_checkpoint": "sft_speech.tasks.asr.loading",
    "load_corpus": "sft_speech.corpora",
    "pseudo_label": "sft_speech.tasks.asr.pseudo.label",
    "self_train": "sft_speech.tools.self_train.self_train",
}
_RENAMED = {"Converter": "VoiceConverter"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: importing the package alone imports nothing heavy."""
    if name in _RENAMED:
        import warnings

        warnings.warn(f"sft_speech.{name} is now sft_speech.{_RENAMED[name]}", FutureWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _MODULES:
        raise AttributeError(f"module 'sft_speech' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
