"""The options of fine-tuning a recognizer."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneEncoderConfig
from sft_speech.options.settings import option


@dataclasses.dataclass
class FinetuneAsrConfig(FinetuneEncoderConfig):
    """Options of fine-tuning a CTC model."""

    # The corpora
    streaming: bool = option(False, "stream the training split from the Hub, without a copy on disk; needs max_steps")

    # The model
    trust_remote_code: bool = option(False, "run code that comes with the checkpoint", by_hand=True)
    new_vocabulary: bool = option(False, "build the vocabulary from the transcripts even if the checkpoint has one")
    target_lang: str | None = option(None, "adapter of a multilingual checkpoint (MMS), such as 'fra'")
    metric_for_best_model: Literal["wer", "cer", "loss"] = option("wer", "selects the best checkpoint")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and self.max_steps < 0:
            raise UserError("streaming without max_steps", "the length of a stream is unknown", "set max_steps")

    @property
    def streamed(self) -> frozenset[str]:
        return frozenset({"train"}) if self.streaming else frozenset()
