"""A sequence-to-sequence recognizer: loaded from any transformers directory, saved as one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, AutoTokenizer, PreTrainedModel
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.models.adapt import set_regularization
from sft_speech.models.exact.whisper import take_any_length
from sft_speech.models.families import family_of
from sft_speech.models.front_end import FrontEnd, WhisperFrontEnd, make_front_end, read_extractor
from sft_speech.models.load import holds, load_pretrained, quiet, read_config, unreadable
from sft_speech.tasks.asr.seq2seq.transcripts import NO_TIMESTAMPS, PREVIOUS, START, AsWritten, Transcripts

logger = logging.getLogger(__name__)

# Its key in config.json: "auto" in a Whisper that was trained on clips of their own lengths. transformers keeps keys
# that it does not know.
ENCODER_SECONDS = "encoder_seconds"
# Silence after a clip that its own positions of the encoder cover.
MARGIN_SECONDS = 0.5


class Features:
    """Inputs of the encoder from waveforms; holds no model, so that it can be sent to a loader's workers.

    Args:
        front_end: front end of the checkpoint.
        own_length: give each clip as many positions of a Whisper's encoder as it needs, not all of them.
    """

    def __init__(self, front_end: FrontEnd, own_length: bool) -> None:
        self.front_end, self.own_length = front_end, own_length

    def __call__(self, waveforms: list[np.ndarray], silence: list[float] | None = None) -> dict[str, Tensor]:
        """Return the inputs of B clips by their names, with the attention mask if they have their own lengths.

        Args:
            silence: (B,) seconds of silence after each clip; None: as little as the model needs.
        """
        if not isinstance(self.front_end, WhisperFrontEnd) or not self.own_length:
            return self.front_end.features(waveforms)
        return self.front_end.own_features(waveforms, self.positions([len(clip) for clip in waveforms], silence))

    def seconds(self, seconds: np.ndarray) -> np.ndarray:
        """Return the seconds (N,) that the encoder computes for clips of these lengths (N,)."""
        front_end = self.front_end
        if not isinstance(front_end, WhisperFrontEnd):
            return seconds
        if not self.own_length:
            return np.full(len(seconds), front_end.samples_per_position * front_end.positions / front_end.rate)
        return self.positions(samples_of(seconds, front_end.rate)) * front_end.samples_per_position / front_end.rate

    def positions(self, samples: Any, silence: list[float] | None = None) -> Any:
        """Return the positions (B,) of the encoder for clips by their samples (B,)."""
        assert isinstance(self.front_end, WhisperFrontEnd)
        after = MARGIN_SECONDS if silence is None else np.maximum(silence, MARGIN_SECONDS)
        return self.front_end.own_positions(np.asarray(samples) + samples_of(after, self.front_end.rate))


@dataclass
class Checkpoint:
    """A model that writes text token by token, its front end and its tokenizer.

    Attributes:
        model: given the attention mask, the results of a clip do not depend on its neighbors (see ``models/exact``).
        front_end: waveforms to inputs.
        transcripts: transcripts to labels and back.
        new_weights: names of the weights that the checkpoint lacked, and that are random at the start.
        own_length: whether clips take only their own positions of a Whisper's encoder; it must be trained so.
    """

    model: PreTrainedModel
    front_end: FrontEnd
    transcripts: Transcripts
    new_weights: list[str]
    own_length: bool = False

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""
        return self.front_end.rate

    @property
    def normalizer(self) -> AsWritten:
        """Normalizer of transcripts: they are kept as they are written."""
        return self.transcripts.normalizer

    @property
    def languages(self) -> dict[str, int]:
        """Tokens of the languages among which it can be told to write, by their code."""
        return self.transcripts.languages

    @property
    def head_is_new(self) -> bool:
        """Whether the model has yet to be trained to transcribe."""
        return bool(self.new_weights)

    @property
    def max_labels(self) -> int:
        """Most tokens that the decoder takes, its prefix included."""
        config: Any = self.model.config
        return int(getattr(config, "max_target_positions", None) or config.max_position_embeddings)

    def train_on(self, own_length: bool) -> None:
        """Set whether clips take only their own positions of a Whisper's encoder, here and in the saved model."""
        self.own_length = own_length and isinstance(self.front_end, WhisperFrontEnd)
        if isinstance(self.front_end, WhisperFrontEnd):
            self.model.config.update({ENCODER_SECONDS: "auto" if self.own_length else None})

    @property
    def features(self) -> Features:
        """Inputs of the encoder from waveforms."""
        return Features(self.front_end, self.own_length)

    @cached_property
    def encode(self) -> Any:
        """``encode(text)``: see `Transcripts.encode`."""
        return self.transcripts.encode

    def save(self, directory: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Save the model as plain transformers loads it: ``AutoModelForSpeechSeq2Seq``, ``AutoProcessor``."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Write everything but the weights and their configuration."""
        processor = getattr(transformers, family_of(self.model.config).processor)
        with quiet():
            processor(self.front_end.extractor, self.transcripts.tokenizer).save_pretrained(directory)
            self.front_end.extractor.save_pretrained(directory)  # the file that older releases look for
            self.transcripts.tokenizer.save_pretrained(directory)


def load_checkpoint(
    name: str | Path,
    *,
    revision: str | None = None,
    overrides: dict[str, Any] | None = None,
    allow_pickle: bool = False,
    from_scratch: bool = False,
    language: str | None = None,
    any_language: bool = False,
    lower_case: bool = False,
) -> Checkpoint:
    """Load a checkpoint for transcription or fine-tuning.

    Args:
        name: a directory, or an id on the Hub.
        revision: branch, tag or commit on the Hub.
        overrides: dropouts and masks, see :func:`~sft_speech.models.adapt.set_regularization`.
        allow_pickle: see :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.
        from_scratch: use only the architecture, with random weights.
        language: language of the transcripts, by its code or English name; None: the one that was saved.
        any_language: forget the saved language: the transcripts are in several.
        lower_case: write transcripts in lower case.

    Raises:
        UserError: no such checkpoint, no usable weights, damaged files, a tokenizer of another model, or a language
            that it lacks.
    """
    name = str(name)
    where: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    config: Any = read_config(name, **where)
    front_end = make_front_end(config, read_extractor(name, where, config))
    tokenizer = read_tokenizer(name, where, config)
    set_regularization(config, overrides or {})
    model, new = load_pretrained(
        AutoModelForSpeechSeq2Seq, name, config=config, **where, allow_pickle=allow_pickle, from_scratch=from_scratch
    )
    tied = getattr(model, "_tied_weights_keys", None) or ()
    new = [key for key in new if key not in tied]
    settings = generation_settings(model, tokenizer)
    check_settings(name, settings, tokenizer)
    if any_language:
        settings.language = tokenizer.language = None
    transcripts = transcripts_of(name, settings, tokenizer, language, lower_case)
    if transcripts.languages and transcripts.language:
        settings.language, settings.task = transcripts.language, "transcribe"
        tokenizer.set_prefix_tokens(language=transcripts.language, task="transcribe")
    if isinstance(front_end, WhisperFrontEnd):
        # Fixed sinusoids; from_pretrained makes every weight trainable.
        model.get_encoder().embed_positions.requires_grad_(False)
        model = take_any_length(model)
    return Checkpoint(model, front_end, transcripts, new, getattr(config, ENCODER_SECONDS, None) == "auto")


def read_tokenizer(name: str, where: dict[str, Any], config: Any) -> Any:
    """Read the tokenizer of a checkpoint.

    Raises:
        UserError: there is none, it cannot be read, or it belongs to another model.
    """
    do = "copy the tokenizer files of the checkpoint that it comes from"
    if holds(name, "tokenizer.json", "vocab.json", "tokenizer_config.json", "sentencepiece.bpe.model") is False:
        raise UserError(name, "it has no tokenizer", do)
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(name, **where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise unreadable(name, error, do) from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= config.vocab_size:
        why = f"its tokenizer has {largest + 1} tokens, the model {config.vocab_size}"
        raise UserError(name, why, do)
    start, end = tokenizer.get_vocab().get(START), tokenizer.eos_token_id
    if start is None and family_of(config).input == "whisper":
        raise UserError(name, f"its tokenizer has no {START}: it belongs to another model", do)
    if start is not None and start != config.decoder_start_token_id:
        why = f"{START} is token {start} in its tokenizer, the decoder begins with {config.decoder_start_token_id}"
        raise UserError(name, why, do)
    if config.eos_token_id not in (None, end):
        raise UserError(name, f"its tokenizer ends texts with token {end}, the model with {config.eos_token_id}", do)
    return tokenizer


def generation_settings(model: Any, tokenizer: Any) -> Any:
    """Return a model's settings for generation, completed where an old checkpoint lacks them."""
    settings: Any = model.generation_config
    vocabulary = tokenizer.get_vocab()
    settings._from_model_config = False  # otherwise transformers forgets the rest when it loads the saved file
    if getattr(settings, "language", None) is None:
        settings.language = forced_language(settings, tokenizer)
    settings.forced_decoder_ids = None  # replaced by language and task; transformers refuses both together
    if getattr(model.config, "forced_decoder_ids", None) is not None:  # English in old files of every Whisper
        model.config.forced_decoder_ids = None
    if START not in vocabulary:
        return settings
    multilingual = getattr(settings, "is_multilingual", None)
    if multilingual is None:
        multilingual = not is_english_only(vocabulary)
    known = {
        "decoder_start_token_id": vocabulary[START],
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        "no_timestamps_token_id": vocabulary[NO_TIMESTAMPS],
        "prev_sot_token_id": vocabulary[PREVIOUS],
        "max_length": model.config.max_target_positions,
        "is_multilingual": multilingual,
    }
    if multilingual:
        codes = set(TO_LANGUAGE_CODE.values())
        known["lang_to_id"] = {name: id for name, id in vocabulary.items() if name[2:-2] in codes and name[:2] == "<|"}
        known["task_to_id"] = {action: vocabulary[f"<|{action}|>"] for action in ("transcribe", "translate")}
    for key, value in known.items():
        if getattr(settings, key, None) is None:
            setattr(settings, key, value)
    return settings


def check_settings(name: str, settings: Any, tokenizer: Any) -> None:
    """Check that settings for generation have the tokens of the tokenizer and allow all languages.

    Raises:
        UserError: a token has another id in the tokenizer.
    """
    languages = getattr(settings, "lang_to_id", None) or {}
    vocabulary = tokenizer.get_vocab()
    for token, id in {NO_TIMESTAMPS: getattr(settings, "no_timestamps_token_id", None), **languages}.items():
        if id is not None and vocabulary.get(token, id) != id:
            why = f"{token} is token {vocabulary[token]} in its tokenizer and {id} in its generation_config.json"
            raise UserError(name, why, "copy the tokenizer files of the checkpoint that it comes from")
    suppressed = getattr(settings, "suppress_tokens", None) or []
    forbidden = {id: token for token, id in languages.items() if id in suppressed}
    if forbidden:
        logger.warning("%s: its suppress_tokens forbid %s: allowed again", name, ", ".join(forbidden.values()))
        settings.suppress_tokens = [id for id in suppressed if id not in forbidden]


def forced_language(settings: Any, tokenizer: Any) -> str | None:
    """Return the language that the settings of an old checkpoint force, before "language" and "task" replaced them."""
    forced = dict(getattr(settings, "forced_decoder_ids", None) or ())
    token = tokenizer.convert_ids_to_tokens(forced[1]) if forced.get(1) is not None else ""
    return token[2:-2] if token[2:-2] in TO_LANGUAGE_CODE.values() else None


def is_english_only(vocabulary: dict[str, int]) -> bool:
    """Return whether a vocabulary of Whisper is the English one, which begins its special tokens one id earlier."""
    return vocabulary[START] == 50257


def transcripts_of(name: str, settings: Any, tokenizer: Any, language: str | None, lower_case: bool) -> Transcripts:
    """Return the transcripts of a checkpoint in a language.

    Raises:
        UserError: the model lacks this language.
    """
    languages = {token.strip("<|>"): id for token, id in (getattr(settings, "lang_to_id", None) or {}).items()}
    given = language or getattr(settings, "language", None)
    code = TO_LANGUAGE_CODE.get(given.lower(), given.lower()) if given else None
    if languages and code is not None and code not in languages:
        known = ", ".join(sorted(languages))
        raise UserError(f"language {given}", f"{name} has no token for it", f"choose one of {known}")
    english = getattr(settings, "is_multilingual", None) is False
    if english and code not in (None, "en"):
        do = "take the multilingual checkpoint: its name without '.en'"
        raise UserError(f"language {given}", f"{name} writes only English", do)
    code = "en" if english else code
    return Transcripts(
        tokenizer,
        start=settings.decoder_start_token_id,
        end=settings.eos_token_id,
        languages=languages,
        normalizer=AsWritten(lower_case, code or "en"),
        language=code,
    )
