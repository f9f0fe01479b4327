"""The options that synthesis and voice conversion share."""

from __future__ import annotations

import dataclasses

from sft_speech.options.config import FinetuneConfig
from sft_speech.options.settings import option


@dataclasses.dataclass
class FinetuneSpeechConfig(FinetuneConfig):
    """Options of fine-tuning any SpeechT5 that generates speech."""

    learning_rate: float = option(1e-5, "peak learning rate", 0.0)
    max_seconds: float = option(20.0, "longer utterances are dropped, as are those beyond the model's positions", 0.1)
    speaker_encoder: str | None = option(
        None, "x-vector model for speaker embeddings; null: statistics of the spectrum, without a model", path=True
    )
    vocoder: str | None = option(None, "SpeechT5HifiGan for the samples; null: Griffin-Lim", path=True)
    trim_db: float | None = option(
        40.0, "trim silence at both ends that is this many dB below the loudest part; null: keep it", 10.0, 120.0
    )
    samples: int = option(2, "utterances of the evaluation split to synthesize after each evaluation", 0, 20)
