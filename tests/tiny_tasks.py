"""Utterances of every task in place of real ones, with a tiny model, and the criterion that it is trained by."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tiny_pretraining import tiny_checkpoint
from tiny_speech import builder
from tiny_transducer import write_transducer
from transformers import (
    PreTrainedModel,
    SpeechT5ForSpeechToSpeech,
    SpeechT5ForTextToSpeech,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from sft_speech.models.exact.speecht5 import make_padding_exact
from sft_speech.tasks.asr.ctc.collator import CTCCollator
from sft_speech.tasks.asr.tdt.checkpoint import load_checkpoint
from sft_speech.tasks.asr.tdt.loss import TdtCriterion
from sft_speech.tasks.classification.checkpoint import load_to_finetune
from sft_speech.tasks.classification.collator import ClassificationCollator
from sft_speech.tasks.classification.config import FinetuneClassificationConfig
from sft_speech.tasks.classification.labels import Labels
from sft_speech.tasks.classification.loss import ClassificationCriterion
from sft_speech.tasks.pretraining.loss import PretrainingCriterion
from sft_speech.tasks.pretraining.targets import PretrainingCollator
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.loss import SpectrogramCriterion
from sft_speech.training.loss import Criterion

RATE = 16000


class TinyTask(NamedTuple):
    """Utterances, how they become a batch, and what is trained on it. ``new`` are weights that begin at random."""

    model: PreTrainedModel
    utterances: list[dict[str, Any]]
    collate: Callable[[list[Any]], dict[str, Any]]
    criterion: Callable[[], Criterion]  # made at last: it watches the layers that the model has then
    new: tuple[str, ...] = ()


def clips(count: int) -> list[np.ndarray]:
    """Return noise of 0.2 to 0.5 s."""
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, size).astype(np.float32) for size in rng.integers(RATE // 5, RATE // 2, count).tolist()]


def classification(count: int, config: Any) -> TinyTask:
    """Return an encoder, of this configuration, with a new head for three classes of unequal weights."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        Wav2Vec2Model(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
        settings = FinetuneClassificationConfig(model=folder, source="corpus", output_dir="out")
        torch.manual_seed(0)
        checkpoint = load_to_finetune(settings, Labels(("a", "b", "c")), longest=0.5)
    utterances = [{"id": str(n), "waveform": clip, "labels": [n % 3]} for n, clip in enumerate(clips(count))]
    criterion = ClassificationCriterion(weights=torch.tensor([0.5, 1.0, 2.0]))
    collate = ClassificationCollator(checkpoint)
    return TinyTask(checkpoint.model, utterances, collate, lambda: criterion, tuple(checkpoint.new_weights))


def transducer(count: int) -> TinyTask:
    """Return a recognizer whose search gives tokens and durations."""
    with tempfile.TemporaryDirectory() as folder:
        write_transducer(Path(folder))
        checkpoint = load_checkpoint(folder, log=False)
    texts = ("the sing a", "he", "a thing", "in the ring")
    utterances = [
        {"id": str(n), "waveform": clip, "labels": checkpoint.encode(texts[n % len(texts)])}
        for n, clip in enumerate(clips(count))
    ]
    criterion = TdtCriterion(checkpoint.model.config)
    return TinyTask(checkpoint.model, utterances, CTCCollator(checkpoint), lambda: criterion)


def pretraining(count: int, model_type: str = "wav2vec2") -> TinyTask:
    """Return a wav2vec 2.0 that is pre-trained, with all parts of its loss."""
    checkpoint = tiny_checkpoint(model_type)
    checkpoint.model.feature_grad_mult = 0.5
    front_end, targets = checkpoint.front_end, checkpoint.targets(0.5, 4, 6)
    utterances = [
        {"id": str(n), "waveform": clip, **targets.draw(len(clip), (3, n))} for n, clip in enumerate(clips(count))
    ]
    collate = PretrainingCollator(front_end.features, front_end.frames, RATE, targets)
    return TinyTask(checkpoint.model, utterances, collate, lambda: PretrainingCriterion(0.1, 2.0, 3.0))


def conformer_pretraining(count: int) -> TinyTask:
    """Return a conformer that is pre-trained."""
    return pretraining(count, "wav2vec2-conformer")


def synthesis(count: int) -> TinyTask:
    """Return a SpeechT5 that reads texts."""
    return speech(builder(SpeechT5ForTextToSpeech)(), count)


def conversion(count: int) -> TinyTask:
    """Return a SpeechT5 that converts recordings."""
    return speech(builder(SpeechT5ForSpeechToSpeech)(apply_spec_augment=False), count, from_audio=True)


def speech(model: PreTrainedModel, count: int, from_audio: bool = False) -> TinyTask:
    make_padding_exact(model)
    draw, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    utterances = []
    for number, frames in enumerate(rng.integers(2, 40, count).tolist()):
        size = int(rng.integers(400, 1400) if from_audio else rng.integers(1, 13))
        given: Any = torch.randn(size, generator=draw) if from_audio else rng.integers(4, 20, size).tolist()
        utterances.append(
            {
                "id": str(number),
                "samples" if from_audio else "tokens": given,
                "spectrogram": torch.randn(frames, 10, generator=draw),
                "speaker": torch.nn.functional.normalize(torch.randn(16, generator=draw), dim=0),
                "seconds": frames * 0.016,
            }
        )
    return TinyTask(model, utterances, SpeechCollator(model.config, from_audio), lambda: SpectrogramCriterion(model))
