"""SpeechT5 checkpoints: loaded from a transformers directory or the Hub, saved as plain transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
from sft_speech.models.language import LANGUAGE, saved_language
from sft_speech.models.load import load_pretrained, quiet, read_config, unreadable
from sft_speech.tasks.speech.speakers import Speakers

logger = logging.getLogger(__name__)

Model = SpeechT5ForTextToSpeech | SpeechT5ForSpeechToSpeech

DOES = {
    SpeechT5ForTextToSpeech.__name__: ("synthesize speech", "microsoft/speecht5_tts"),
    SpeechT5ForSpeechToSpeech.__name__: ("convert speech", "microsoft/speecht5_vc"),
}
Samples = TypeVar("Samples", int, np.ndarray)
LONGEST_TEXT = "longest_text_characters"  # its key in config.json: transformers keeps keys that it does not know
COMMON_SHARE = 0.99  # of the texts of a corpus; the few longer ones are too rare to be learned


@dataclass
class SpeechCheckpoint:
    """A SpeechT5 for speech synthesis or voice conversion, and what belongs to it.

    Legend: N text tokens, S samples, T mel frames, M mel bands.

    Attributes:
        model: model of plain transformers.
        tokenizer: tokenizer of its texts; voice conversion only saves it.
        extractor: extractor of its spectrograms.
        speakers: its voices.
        new_weights: names of weights that the checkpoint lacked, such as the embeddings of new letters.
    """

    model: Model
    tokenizer: SpeechT5Tokenizer
    extractor: SpeechT5FeatureExtractor
    speakers: Speakers
    new_weights: list[str] = field(default_factory=list)

    @property
    def config(self) -> SpeechT5Config:
        config: SpeechT5Config = self.model.config
        return config

    @property
    def language(self) -> str:
        """Language of its texts, as num2words names it."""
        return saved_language(self.config) or "en"

    @property
    def rate(self) -> int:
        """Samples per second."""
        return int(self.extractor.sampling_rate)

    def frames(self, samples: Samples) -> Samples:
        """Return the number of mel frames of a waveform, whose ends are padded, or of an array of lengths."""
        return samples // self.extractor.sample_stride + 1

    def encoder_steps(self, inputs: int) -> int:
        """Return the number of encoder steps for a number of tokens, or of samples if the model converts speech."""
        if isinstance(self.model, SpeechT5ForTextToSpeech):
            return inputs
        return conv_frames(inputs, self.config.conv_kernel, self.config.conv_stride)

    @property
    def max_tokens(self) -> int:
        """The largest N: there are no positions for more tokens (microsoft/SpeechT5#64)."""
        return int(self.config.max_text_positions)

    @property
    def longest_text(self) -> int | None:
        """Characters of the longest texts that the model was trained on; None if they are not known.

        The attention loses its way in longer ones.
        """
        saved = getattr(self.config, LONGEST_TEXT, None)
        return saved if isinstance(saved, int) and saved > 0 else None

    def note_longest(self, texts: Iterable[str], from_scratch: bool) -> None:
        """Note how long the texts are that the model is trained on, in its configuration.

        A model that was trained before keeps its length if that is greater. It has none if its texts are not known.
        """
        before = 0 if from_scratch else self.longest_text
        if before is not None:
            longest = int(np.quantile([len(text) for text in texts], COMMON_SHARE))
            setattr(self.config, LONGEST_TEXT, max(longest, before))

    @property
    def max_frames(self) -> int:
        """The largest T."""
        return int(self.config.max_speech_positions * self.config.reduction_factor)

    def why_unusable(self, tokens: int, frames: int) -> tuple[str, str] | None:
        """Return a reason and its details if the model has too few positions for an utterance, else None."""
        if tokens > self.max_tokens:
            return "text too long", f"{tokens} tokens, the model has {self.max_tokens} positions"
        if frames > self.max_frames:
            return "too long", f"{frames} mel frames, the model has positions for {self.max_frames}"
        return None

    def encode(self, text: str) -> list[int]:
        """Return the token ids (N,) of a normalized text, with the end token."""
        return list(self.tokenizer(text)["input_ids"])

    def mels(self, waveform: np.ndarray) -> np.ndarray:
        """Return the log10 mels (T, M), float32, of a waveform (S,) at :attr:`rate`."""
        extracted: Any = self.extractor(audio_target=waveform, sampling_rate=self.rate)
        return np.asarray(extracted["input_values"][0], np.float32)

    def save(self, directory: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write the model as plain transformers loads it, and the voices."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Write everything but the weights and their configuration."""
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
    """Load a checkpoint in float32.

    Args:
        name: a directory, or an id on the Hub.
        kind: class of the model.
        revision: branch, tag or commit on the Hub.
        allow_pickle: if a directory holds no safetensors, read the pickle; see
            :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.
        from_scratch: initialize the weights at random.
        language: language of the texts, as num2words names it; None: the saved one, or else English.

    Raises:
        UserError: there is no such checkpoint, it is not a SpeechT5 of that kind, its weights are missing or pickled,
            or a file is damaged.
    """
    name = str(name)
    config = read_config(name, revision=revision)
    does, example = DOES[kind.__name__]
    kinds = config.architectures or [kind.__name__]
    if not isinstance(config, SpeechT5Config) or kind.__name__ not in kinds:
        found = kinds[0] if isinstance(config, SpeechT5Config) else f"{config.model_type} model"
        raise UserError(name, f"a {found} does not {does}", f"take a SpeechT5, such as {example}")
    if language:
        config.update({LANGUAGE: language})
    try:
        with quiet(bars=not Path(name).is_dir()):
            tokenizer = SpeechT5Tokenizer.from_pretrained(name, revision=revision or "main")
            extractor = SpeechT5FeatureExtractor.from_pretrained(name, revision=revision or "main")
    except Exception as error:  # sentencepiece, JSON and the Hub each raise errors of their own
        raise unreadable(name, error, "repair its spm_char.model and preprocessor_config.json") from error
    model: Any
    model, new = load_pretrained(
        kind, name, config=config, revision=revision, allow_pickle=allow_pickle, from_scratch=from_scratch
    )
    if new and not from_scratch:
        why = f"{len(new)} of its weights are missing ({min(new)}, ...)"
        raise UserError(name, why, f"take one that was trained to {does}, such as {example}")
    if len(tokenizer) > config.vocab_size:
        why = f"its tokenizer has {len(tokenizer)} entries, its model {config.vocab_size}"
        raise UserError(name, why, "check that they belong together")
    speakers = Speakers.load(name, config.speaker_embedding_dim, revision)
    return SpeechCheckpoint(model, tokenizer, extractor, speakers)
