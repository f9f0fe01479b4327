"""A TDT checkpoint as the rest of the toolkit sees it: a CTC one but for its head, its blank and its search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from transformers import MODEL_FOR_TDT_MAPPING, AutoModelForTDT, PreTrainedConfig

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc import checkpoint as ctc
from sft_speech.tasks.asr.ctc.decoding import Decoding
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.tdt.recognize import recognize
from sft_speech.tasks.asr.timed import TimedHypothesis

BELOW_TOKENS = -30.0  # logits of durations


@dataclass
class Checkpoint(ctc.Checkpoint):
    """A transducer, its front end and its vocabulary, in which the blank is one of the labels."""

    auto: ClassVar[Any] = AutoModelForTDT
    configurations: ClassVar[Any] = MODEL_FOR_TDT_MAPPING

    def __post_init__(self) -> None:
        generation: Any = self.model.generation_config  # for plain transformers
        generation.update(decoder_start_token_id=self.blank, pad_token_id=self.model.config.pad_token_id)

    @staticmethod
    def blank_of(config: Any) -> int:
        return int(config.blank_token_id)

    @staticmethod
    def configure(config: PreTrainedConfig, blank: int) -> None:
        if blank != Checkpoint.blank_of(config):  # a new vocabulary, whose padding is the blank
            config.update({"blank_token_id": blank, "pad_token_id": blank})

    @property
    def processor_options(self) -> Mapping[str, Any]:
        return {**super().processor_options, "blank_token": self.tokenizer.convert_ids_to_tokens(self.blank)}

    def recognize(self, clips: Iterable[Clip], **options: Any) -> Iterator[TimedHypothesis | AudioError]:  # type: ignore[override]
        """Recognize clips: see :func:`sft_speech.tasks.asr.tdt.recognize.recognize`."""
        return recognize(self, clips, **options)

    def decoder_for(self, decoding: Decoding | None) -> None:
        """Check that no language model is asked for.

        Raises:
            UserError: one is.
        """
        if decoding is not None:
            raise UserError(f"--lm {decoding.lm}", "a transducer has no search with a language model", "leave --lm out")


def load_checkpoint(name: str | Path, **options: Any) -> Checkpoint:
    """Load a checkpoint as :func:`sft_speech.tasks.asr.ctc.checkpoint.load_checkpoint` does, with its options."""
    checkpoint = cast(Checkpoint, ctc.load_checkpoint(name, **options, kind=Checkpoint))
    if checkpoint.head_is_new:
        # It makes no difference to the probabilities, but plain transformers fails where a duration beats all tokens.
        model: Any = checkpoint.model
        with torch.no_grad():
            model.joint.head.bias[model.config.vocab_size :] = BELOW_TOKENS
    return checkpoint
