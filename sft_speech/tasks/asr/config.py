"""The options of fine-tuning a recognizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal

from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneEncoderConfig
from sft_speech.options.settings import option
from sft_speech.text.scoring import NormalizerName


@dataclasses.dataclass
class FinetuneAsrConfig(FinetuneEncoderConfig):
    """Options of fine-tuning a recognizer."""

    # The corpora
    streaming: bool = option(False, "stream the training split from the Hub, without a copy on disk; needs max_steps")

    language_column: str | None = option(
        None, "column that names each row's language, in a multilingual corpus; not for CTC"
    )

    weight_column: str | None = option(
        None, "column of each training utterance's weight in the loss; null: that of pseudo-labels, if there is one"
    )

    # The model
    trust_remote_code: bool = option(False, "run code that comes with the checkpoint", by_hand=True)
    new_vocabulary: bool = option(False, "build the vocabulary from the transcripts even if the checkpoint has one")
    target_lang: str | None = option(None, "adapter of a multilingual checkpoint (MMS), such as 'fra'")
    encoder_seconds: Literal["auto", "full"] = option(
        "auto",
        "Whisper: auto: encode only the seconds of each clip; full: pad every clip to 30 s",
    )
    label_smoothing: float = option(0.0, "share of the target spread over the vocabulary; not for CTC", 0.0, 0.5)
    lower_case: bool = option(False, "write transcripts in lower case; for corpora in capitals; not for CTC")
    markup: Literal["remove", "keep"] = option(
        "remove", "signs of transcription (GigaSpeech, TED-LIUM, Switchboard, HTML): remove them, or keep them as words"
    )
    timestamp_share: float = option(
        0.5, "Whisper: share of the segments of longer recordings that are learned with timestamps", 0.0, 1.0
    )
    normalizer: NormalizerName | None = option(  # noqa: RUF009 (it is a Literal)
        None, "normalizer of WER and CER: whisper (English), basic, none or checkpoint; null: what suits the model"
    )
    metric_for_best_model: Literal["wer", "cer", "loss"] | None = option(
        None, "selects the best checkpoint; null: wer, or cer for languages without spaces between words"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language_column and self.language:
            raise UserError("language and language_column", "each row has its own language", "remove one of them")
        if self.streaming and self.max_steps < 0:
            raise UserError("streaming without max_steps", "the length of a stream is unknown", "set max_steps")

    def refuse(self, names: Collection[str], why: str) -> None:
        """Refuse options.

        Args:
            names: the options that may not be set.
            why: why they may not.

        Raises:
            UserError: one of them has another value than its default.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                raise UserError(f"{field.name} {value}", why, f"leave {field.name} out")

    @property
    def several_languages(self) -> bool:
        """Whether each row has its own language."""
        own = any("language" in table or "language_column" in table for table in self.sources)
        return own or self.language_column is not None

    @property
    def columns(self) -> dict[str, str | None]:
        named = {"language": self.language_column, "weight": self.weight_column}
        return {**super().columns, **{role: column for role, column in named.items() if column}}

    @property
    def streamed(self) -> frozenset[str]:
        return frozenset({"train"}) if self.streaming else frozenset()
