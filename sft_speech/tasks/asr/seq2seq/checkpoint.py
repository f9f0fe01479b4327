"""A sequence-to-sequence recognizer: loaded from any transformers directory, saved as one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, AutoTokenizer, PreTrainedModel

from sft_speech.audio.read import AudioError
from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.models.adapt import set_regularization
from sft_speech.models.base_front_end import FrontEnd
from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.exact.whisper import SILENT_POSITIONS, take_any_length
from sft_speech.models.families import family_of
from sft_speech.models.front_end import WhisperFrontEnd, make_front_end, read_extractor
from sft_speech.models.language import card_language
from sft_speech.models.load import holds, load_pretrained, quiet, read_config, unreadable
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.languages import code_of
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.seq2seq.recognition import Writing
from sft_speech.tasks.asr.seq2seq.recognize import recognize
from sft_speech.tasks.asr.seq2seq.settings import check_settings, generation_settings, write_in
from sft_speech.tasks.asr.seq2seq.transcripts import (
    START,
    AsWritten,
    Transcripts,
    normalizer_of,
)
from sft_speech.text.codes import known_code
from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.text.scoring import NormalizerName, normalizer_for

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.decoding import Decoding

logger = logging.getLogger(__name__)

# Its key in config.json: "auto" in a Whisper that was trained on clips of their own lengths. transformers keeps keys
# that it does not know.
ENCODER_SECONDS = "encoder_seconds"
# Silence after a clip that its own positions of the encoder cover, so that all after them is steady silence.
MARGIN_SECONDS = 0.1


class Features:
    """Inputs of the encoder from waveforms; holds no model, so that it can be sent to a loader's workers.

    Args:
        front_end: front end of the checkpoint.
        own_length: give each clip as many positions of a Whisper's encoder as it needs, not all of them.
    """

    def __init__(self, front_end: FrontEnd, own_length: bool) -> None:
        self.front_end, self.own_length = front_end, own_length

    def __call__(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the inputs of B clips by their names, with the attention mask if they have their own lengths."""
        if not isinstance(self.front_end, WhisperFrontEnd) or not self.own_length:
            return self.front_end.features(waveforms)
        return self.front_end.own_features(waveforms, self.positions([len(clip) for clip in waveforms]))

    def seconds(self, seconds: np.ndarray) -> np.ndarray:
        """Return the seconds (N,) that the encoder computes for clips of these lengths (N,)."""
        front_end = self.front_end
        if not isinstance(front_end, WhisperFrontEnd):
            return seconds
        if not self.own_length:
            return np.full(len(seconds), front_end.samples_per_position * front_end.positions / front_end.rate)
        computed = self.positions(samples_of(seconds, front_end.rate)) + SILENT_POSITIONS
        return computed * front_end.samples_per_position / front_end.rate

    def positions(self, samples: Any) -> Any:
        """Return the positions (B,) of the encoder for clips by their samples (B,)."""
        assert isinstance(self.front_end, WhisperFrontEnd)
        return self.front_end.own_positions(np.asarray(samples) + samples_of(MARGIN_SECONDS, self.front_end.rate))


@dataclass
class Checkpoint:
    """A model that writes text token by token, its front end and its tokenizer.

    Attributes:
        model: given the attention mask, the results of a clip do not depend on its neighbors (see ``models/exact``).
        front_end: waveforms to inputs.
        transcripts: transcripts to labels and back.
        new_weights: names of the weights that the checkpoint lacked, and that are random at the start.
        own_length: whether the encoder of a Whisper computes only the seconds of each clip; plain use otherwise.
        generation: what it writes, and how it searches for it.
    """

    model: PreTrainedModel
    front_end: FrontEnd
    transcripts: Transcripts
    new_weights: list[str]
    own_length: bool = False
    generation: Generation = field(default_factory=Generation)

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""
        return self.front_end.rate

    @property
    def normalizer(self) -> AsWritten | TranscriptNormalizer:
        """Normalizer of transcripts: they are kept as they are written, if the tokenizer spells everything."""
        return self.transcripts.normalizer

    @property
    def language(self) -> str | None:
        """Language of the transcripts, English if it translates; None if it is not known, or there are several."""
        return "en" if self.generation.task == "translate" else self.transcripts.language

    @property
    def languages(self) -> dict[str, int]:
        """Tokens of the languages that the model can be set to write, by their code; empty if there is no choice."""
        return self.transcripts.languages

    @property
    def default_normalizer(self) -> NormalizerName:
        """That of ordinary text in its language, if the tokenizer spells everything."""
        return normalizer_for(self.language) if isinstance(self.normalizer, AsWritten) else "checkpoint"

    @property
    def spellings(self) -> dict[str, str]:
        """British to American spellings, from the checkpoint's ``normalizer.json``."""
        return getattr(self.transcripts.tokenizer, "english_spelling_normalizer", None) or {}

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

    @property
    def search(self) -> dict[str, object]:
        """How the recognizer searches for hypotheses, for the figures of an evaluation."""
        return self.generation.summary()

    def recognize(self, clips: Iterable[Clip], **options: Any) -> Iterator[Writing | AudioError]:
        """Recognize clips: see :func:`sft_speech.tasks.asr.seq2seq.recognize.recognize`."""
        return recognize(self, clips, **options)

    def with_generation(self, generation: Generation) -> Checkpoint:
        """Return the recognizer with options of what it writes; the model is shared.

        Raises:
            UserError: the model lacks the language, or has no such option.
        """
        transcripts = self.transcripts
        if generation.language:
            code = language_code(generation.language, transcripts.languages, transcripts.language, "the model")
            transcripts = replace(transcripts, language=code, normalizer=transcripts.normalizer.in_language(code))
        if generation.task == "translate" and not (transcripts.languages and transcripts.special):
            do = "take a multilingual Whisper"
            raise UserError("--task translate", "the model only transcribes", do)
        if generation.prompt and not transcripts.special:
            raise UserError("--prompt", "the model takes no prompt", "leave --prompt out")
        return replace(self, transcripts=transcripts, generation=generation)

    def with_model(self, model: PreTrainedModel) -> Checkpoint:
        """Return the recognizer with another form of its model."""
        return replace(self, model=model)

    def decoder_for(self, decoding: Decoding | None) -> None:
        """Return None: the recognizer searches by itself.

        Raises:
            UserError: a language model is given.
        """
        if decoding is not None:
            do = "leave --lm out; --num_beams searches more widely"
            raise UserError(f"--lm {decoding.lm}", "only CTC models take a language model", do)

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
        language: language of the transcripts, see :func:`~sft_speech.text.codes.known_code`; None: the saved one.
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
        settings.language = tokenizer.language = settings.forced_bos_token_id = None
    transcripts = transcripts_of(name, revision, settings, tokenizer, language, lower_case)
    if transcripts.language is not None:
        write_in(transcripts.language, transcripts, settings)
    if isinstance(front_end, WhisperFrontEnd):
        # Fixed sinusoids; from_pretrained makes every weight trainable.
        model.get_encoder().embed_positions.requires_grad_(False)
        model = take_any_length(model)
    else:
        model = make_padding_exact(model)
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


def transcripts_of(
    name: str, revision: str | None, settings: Any, tokenizer: Any, language: str | None, lower_case: bool
) -> Transcripts:
    """Return the transcripts of a checkpoint in a language.

    Raises:
        UserError: the model lacks this language.
    """
    tokens = getattr(settings, "lang_to_id", None) or getattr(tokenizer, "lang_code_to_id", None) or {}
    languages = {token.strip("<|>"): id for token, id in tokens.items()}
    forced = {id: code for code, id in languages.items()}.get(getattr(settings, "forced_bos_token_id", None))
    given = language or getattr(settings, "language", None) or forced
    only = "en" if getattr(settings, "is_multilingual", None) is False else None
    code = language_code(given, languages, only, name) if given else only
    normalizer = normalizer_of(tokenizer, lower_case, code)
    if code is None and isinstance(normalizer, TranscriptNormalizer):
        normalizer = normalizer.in_language(card_language(name, revision))
    return Transcripts(
        tokenizer,
        start=settings.decoder_start_token_id,
        end=settings.eos_token_id,
        languages=languages,
        normalizer=normalizer,
        language=code,
    )


def language_code(given: str, languages: dict[str, int], only: str | None, name: str) -> str:
    """Return the code of a language that is given as :func:`~sft_speech.tasks.asr.languages.code_of` takes it.

    Args:
        languages: tokens of languages by their code; empty for a model of one language.
        only: the language of a model of one language; None: not known.
        name: of the model, for the error.

    Raises:
        UserError: the model lacks the language.
    """
    code = (code_of(given, languages) if languages else known_code(given)) or given.lower()
    if languages and code not in languages:
        known = ", ".join(sorted(languages))
        raise UserError(f"language {given}", f"{name} has no token for it", f"choose one of {known}")
    if not languages and only == "en" and code != "en":
        do = "take a multilingual checkpoint: of Whisper, its name without '.en'"
        raise UserError(f"language {given}", f"{name} writes only English", do)
    return code
