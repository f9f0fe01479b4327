"""A SpeechT5 checkpoint as the rest of the toolkit sees it: loaded from any transformers directory, saved as one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    SpeechT5Config,
    SpeechT5FeatureExtractor,
    SpeechT5ForSpeechToSpeech,
    SpeechT5ForTextToSpeech,
    SpeechT5Processor,
    SpeechT5Tokenizer,
)

from sft_speech.audio.units import conv_frames
from sft_speech.errors import UserError
from sft_speech.models.load import load_pretrained, quiet, read_config, unreadable
from sft_speech.tasks.speech.speakers import Speakers
from sft_speech.tasks.speech.text import SpeakableText

logger = logging.getLogger(__name__)

Model = SpeechT5ForTextToSpeech | SpeechT5ForSpeechToSpeech

DOES = {
    SpeechT5ForTextToSpeech.__name__: ("speak texts", "microsoft/speecht5_tts"),
    SpeechT5ForSpeechToSpeech.__name__: ("convert speech", "microsoft/speecht5_vc"),
}
LANGUAGE = "transcript_language"  # where the saved configuration remembers it; transformers keeps what it doesn't know


@dataclass
class SpeechCheckpoint:
    """A SpeechT5 for synthesis or voice conversion, and everything around it.

    Legend: N text tokens, S samples, T mel frames, M mel bands.

    Attributes:
        model: plain transformers.
        tokenizer: of its texts; that of voice conversion only saves it.
        extractor: of its spectrograms.
        speakers: the voices that were saved beside it.
        text: writes texts in the tokenizer's characters.
    """

    model: Model
    tokenizer: SpeechT5Tokenizer
    extractor: SpeechT5FeatureExtractor
    speakers: Speakers
    text: SpeakableText

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def rate(self) -> int:
        """Samples per second."""
        return int(self.extractor.sampling_rate)

    def frames(self, samples: Any) -> Any:
        """Mel frames of a waveform, its ends padded; a number of samples or an array of them."""
        return samples // self.extractor.sample_stride + 1

    def encoder_steps(self, inputs: int) -> int:
        """Steps of the encoder for so many tokens, or samples where the model is given recordings."""
        if isinstance(self.model, SpeechT5ForTextToSpeech):
            return inputs
        return conv_frames(inputs, self.config.conv_kernel, self.config.conv_stride)

    @cached_property
    def max_tokens(self) -> int:
        """N at most: more have no position of their own (microsoft/SpeechT5#64)."""
        return int(self.config.max_text_positions)

    @cached_property
    def max_frames(self) -> int:
        """T at most, reduction and all."""
        return int(self.config.max_speech_positions * self.config.reduction_factor)

    def unfit(self, tokens: int, frames: int) -> tuple[str, str] | None:
        """Why an utterance has more tokens or mel frames than the model has positions, if it has."""
        if tokens > self.max_tokens:
            return "text too long", f"{tokens} tokens, the model has {self.max_tokens} positions"
        if frames > self.max_frames:
            return "too long", f"{frames} mel frames, the model has positions for {self.max_frames}"
        return None

    def encode(self, text: str) -> list[int]:
        """Ids (N,) of a text that :attr:`text` has written, its end included."""
        return list(self.tokenizer(text)["input_ids"])

    def mels(self, waveform: np.ndarray) -> np.ndarray:
        """(S,) at :attr:`rate` to log10 mels (T, M), float32."""
        extracted: Any = self.extractor(audio_target=waveform, sampling_rate=self.rate)
        return np.asarray(extracted["input_values"][0], np.float32)

    def save(self, directory: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Writes what plain transformers loads, and the voices."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Writes everything but the weights and their configuration."""
        with quiet():
            SpeechT5Processor(self.extractor, self.tokenizer).save_pretrained(directory)
            self.extractor.save_pretrained(directory)  # the file that older releases look for
        self.speakers.save(directory)


def load_speech_checkpoint(
    name: str | Path,
    *,
    kind: type[Model] = SpeechT5ForTextToSpeech,
    revision: str | None = None,
    allow_pickle: bool = False,
    from_scratch: bool = False,
    language: str | None = None,
) -> SpeechCheckpoint:
    """Loads a checkpoint for speaking or fine-tuning, in float32.

    Args:
        name: a directory, or an id on the Hub.
        kind: what it must be.
        revision: branch, tag or commit on the Hub.
        allow_pickle: of a directory that holds no safetensors, read the pickle; see
            :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.
        from_scratch: the same architecture with random weights.
        language: of the texts, as num2words names it; `None`: as it was saved, else English.

    Raises:
        UserError: no such checkpoint, no SpeechT5 of that kind, no weights or only pickled ones, damaged files.
    """
    name = str(name)
    config = read_config(name, revision=revision)
    does, example = DOES[kind.__name__]
    kinds = config.architectures or [kind.__name__]
    if not isinstance(config, SpeechT5Config) or kind.__name__ not in kinds:
        found = kinds[0] if isinstance(config, SpeechT5Config) else f"{config.model_type} model"
        raise UserError(name, f"a {found} does not {does}", f"take a SpeechT5, as {example}")
    if language:
        config.update({LANGUAGE: language})
    try:
        with quiet(bars=not Path(name).is_dir()):
            tokenizer = SpeechT5Tokenizer.from_pretrained(name, revision=revision or "main")
            extractor = SpeechT5FeatureExtractor.from_pretrained(name, revision=revision or "main")
    except Exception as error:  # sentencepiece, JSON and the Hub each have their own
        raise unreadable(name, error, "repair its spm_char.model and preprocessor_config.json") from error
    model: Any
    model, new = load_pretrained(
        kind, name, config=config, revision=revision, allow_pickle=allow_pickle, from_scratch=from_scratch
    )
    if new and not from_scratch:
        why = f"{len(new)} of its weights are missing ({min(new)}, ...)"
        raise UserError(name, why, f"take one that was trained to {does}, as {example}")
    if len(tokenizer) > config.vocab_size:
        why = f"its tokenizer has {len(tokenizer)} entries, its model {config.vocab_size}"
        raise UserError(name, why, "check that they belong together")
    speakers = Speakers.load(name, config.speaker_embedding_dim, revision)
    text = SpeakableText(tokenizer.get_vocab(), str(getattr(config, LANGUAGE, "en")))
    return SpeechCheckpoint(model, tokenizer, extractor, speakers, text)
