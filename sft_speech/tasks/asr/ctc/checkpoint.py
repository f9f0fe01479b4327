"""A CTC checkpoint as the rest of the toolkit sees it: loaded from any transformers directory, saved as one."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    AutoModelForCTC,
    AutoTokenizer,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Wav2Vec2CTCTokenizer,
)

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.models.adapt import set_regularization
from sft_speech.models.base_front_end import FrontEnd
from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.families import family_of
from sft_speech.models.front_end import make_front_end, read_extractor, uncounted
from sft_speech.models.language import LANGUAGE, card_language, saved_language
from sft_speech.models.load import (
    holds,
    how_to_read_weights,
    load_pretrained,
    quiet,
    read_config,
    unreadable,
)
from sft_speech.tasks.asr.ctc.adapters import choose_adapter, load_adapter
from sft_speech.tasks.asr.ctc.beam import BeamDecoder, Search
from sft_speech.tasks.asr.ctc.decoding import GREEDY, Decoding
from sft_speech.tasks.asr.ctc.recognition import Recognition
from sft_speech.tasks.asr.ctc.recognize import recognize
from sft_speech.tasks.asr.ctc.vocabulary import Characters, Subwords, Vocabulary, build_tokenizer
from sft_speech.tasks.asr.generation import Generation, refuse
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.text.codes import known_code, language_code
from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.text.scoring import NormalizerName

logger = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """A model with a CTC head, its front end and its vocabulary.

    Legend: B batch, S samples, T frames, L labels.

    Attributes:
        model: given the attention mask, a clip's logits do not depend on its neighbors (see ``models/exact``).
            Everything else is plain transformers.
        front_end: waveforms to inputs, samples to frames.
        vocabulary: transcripts to labels and back.
        new_weights: names of the weights that the checkpoint lacked, and that are random at the start.
    """

    model: PreTrainedModel
    front_end: FrontEnd
    vocabulary: Vocabulary
    new_weights: list[str]

    auto: ClassVar[Any] = AutoModelForCTC  # its models
    configurations: ClassVar[Container[Any]] = MODEL_FOR_CTC_MAPPING

    @staticmethod
    def blank_of(config: Any) -> int | None:
        """Return the blank of a checkpoint with subwords."""
        blank: int | None = config.pad_token_id
        return blank

    @staticmethod
    def configure(config: PreTrainedConfig, blank: int) -> None:
        """Configure a model for a vocabulary, before it is built."""
        config.update({"pad_token_id": blank, "ctc_loss_reduction": "sum", "ctc_zero_infinity": True})

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""
        return self.front_end.rate

    @property
    def blank(self) -> int:
        """The label of CTC's blank."""
        return self.vocabulary.blank

    @property
    def feature_extractor(self) -> FeatureExtractionMixin:
        return self.front_end.extractor

    @property
    def tokenizer(self) -> Wav2Vec2CTCTokenizer | PreTrainedTokenizerFast:
        return self.vocabulary.tokenizer

    @property
    def normalizer(self) -> TranscriptNormalizer:
        """Normalizer that writes transcripts in the characters of the vocabulary."""
        return self.vocabulary.normalizer

    @property
    def language(self) -> str | None:
        """Language of the transcripts; None if it is not known."""
        return self.normalizer.language

    @property
    def languages(self) -> tuple[str, ...]:
        """There is no choice of languages: the vocabulary decides."""
        return ()

    @property
    def default_normalizer(self) -> NormalizerName:
        """References are compared as the vocabulary spells them."""
        return "checkpoint"

    @property
    def spellings(self) -> Mapping[str, str]:
        """CTC checkpoints bring none."""
        return {}

    @property
    def head_is_new(self) -> bool:
        """Whether the head is random, so that the model cannot transcribe yet."""
        heads = tuple(f"{name}." for name in family_of(self.model.config).head)
        return any(name.startswith(heads) for name in self.new_weights)

    @property
    def search(self) -> dict[str, object]:
        """How it searches for hypotheses without a language model."""
        return GREEDY.copy()

    @property
    def processor_options(self) -> Mapping[str, Any]:
        return family_of(self.model.config).processor_options

    # Methods of objects that don't hold the model, so that a loader's worker receives them without it.

    @cached_property
    def frames(self) -> Any:
        """``frames(samples)``: see `FrontEnd.frames`."""
        return self.front_end.frames

    @cached_property
    def features(self) -> Any:
        """``features(waveforms)``: see `FrontEnd.features`."""
        return self.front_end.features

    @cached_property
    def encode(self) -> Any:
        """``encode(text)``: see `Vocabulary.encode`."""
        return self.vocabulary.encode

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of labels from which blanks and repeats were removed."""
        return self.vocabulary.decode(ids)

    def recognize(self, clips: Iterable[Clip], **options: Any) -> Iterator[Recognition | AudioError]:
        """Recognize clips: see :func:`sft_speech.tasks.asr.ctc.recognize.recognize`."""
        return recognize(self, clips, **options)

    def with_generation(self, generation: Generation) -> Checkpoint:
        """Return the recognizer for transcripts in another language; the model is shared.

        Raises:
            UserError: an option of models that write token by token is set.
        """
        refuse(replace(generation, language=None))
        if generation.language is None:
            return self
        return replace(self, vocabulary=self.vocabulary.in_language(generation.language))

    def with_model(self, model: PreTrainedModel) -> Checkpoint:
        """Return the recognizer with another form of its model."""
        return replace(self, model=model)

    def decoder_for(self, decoding: Decoding | None) -> BeamDecoder | None:
        """Return a beam search with a language model; None for greedy recognition.

        Raises:
            UserError: the language model does not suit the vocabulary.
        """
        return None if decoding is None else BeamDecoder(Search(self.vocabulary, decoding))

    def save(self, directory: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Save the model as plain transformers loads it: ``AutoModelForCTC``, ``AutoProcessor``, ``pipeline``."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Write everything but the weights and their configuration."""
        processor = getattr(transformers, family_of(self.model.config).processor)
        with quiet():
            processor(self.feature_extractor, self.tokenizer, **self.processor_options).save_pretrained(directory)
            self.feature_extractor.save_pretrained(directory)  # the file that older releases look for


def load_checkpoint(
    name: str | Path,
    *,
    transcripts: Iterable[str] | None = None,
    revision: str | None = None,
    overrides: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    from_scratch: bool = False,
    new_vocabulary: bool = False,
    target_lang: str | None = None,
    language: str | None = None,
    log: bool = True,
    kind: type[Checkpoint] = Checkpoint,
) -> Checkpoint:
    """Load a checkpoint for transcription or fine-tuning.

    The vocabulary is the checkpoint's own if it has one that fits its head; otherwise it is built from the transcripts,
    and the head is new. CTC losses are summed, infinite ones zeroed. Weights are float32, however they were saved.

    Args:
        name: a directory, or an id on the Hub.
        transcripts: for a new vocabulary; needed only if the checkpoint has none.
        revision: branch, tag or commit on the Hub.
        overrides: dropouts and masks, see :func:`~sft_speech.models.adapt.set_regularization`.
        trust_remote_code: run code that comes with the checkpoint. Only for code that you have read.
        allow_pickle: see :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.
        from_scratch: use only the architecture, with random weights.
        new_vocabulary: build it from the transcripts although the checkpoint has one (for another language, say).
        target_lang: language whose adapter to load from a checkpoint for many (MMS), "fra"; `None`: ``language``.
        language: language of the transcripts; `None`: the checkpoint's; that of a new vocabulary is not known.
        log: log which weights are new.
        kind: `Checkpoint` or a class derived from it.

    Raises:
        UserError: no such checkpoint, not one of this kind, no usable weights, damaged files, or no vocabulary.
    """
    name = str(name)
    where: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    config = read_config_of(kind, name, where)
    how = {} if from_scratch else how_to_read_weights(name, allow_pickle)  # raises before anything else is read
    front_end = make_front_end(config, read_extractor(name, where, config))
    language = language_code(language) if language else None
    own, adapter = (None, None) if new_vocabulary else own_vocabulary(kind, name, where, config, target_lang, language)
    vocabulary = own if own is not None and adapter else choose_vocabulary(name, config, own, transcripts, language)
    if vocabulary is own and not language:
        vocabulary = vocabulary.in_language(written_language(name, config, vocabulary, revision))
    set_regularization(config, overrides or {})
    configure(kind, config, vocabulary)
    build: dict[str, Any] = {"allow_pickle": allow_pickle, "from_scratch": from_scratch, "new_head": True, **where}
    model, new_weights = load_pretrained(kind.auto, name, config=config, **build)
    if new_vocabulary and not from_scratch:
        new_weights += renew_head(model, new_weights)
    if adapter:
        load_adapter(name, model, adapter, vocabulary, new_weights, how.get("use_safetensors", True))
    checkpoint = kind(make_padding_exact(model), front_end, vocabulary, new_weights)
    if log and new_weights:
        level = logging.WARNING if checkpoint.head_is_new and transcripts is None else logging.INFO
        logger.log(level, "%s: %s", name, describe_new(new_weights, model, from_scratch))
    return checkpoint


def configure(kind: type[Checkpoint], config: PreTrainedConfig, vocabulary: Vocabulary) -> None:
    """Configure a model for a vocabulary and the language of its transcripts, before it is built."""
    kind.configure(config, vocabulary.blank)
    if vocabulary.normalizer.language or saved_language(config):
        config.update({LANGUAGE: vocabulary.normalizer.language})


def written_language(name: str, config: Any, vocabulary: Vocabulary, revision: str | None) -> str | None:
    """Return the language that a checkpoint writes: the saved one, that of its adapter, or that of its card."""
    adapter = getattr(vocabulary.tokenizer, "target_lang", None)
    return saved_language(config) or known_code(adapter or "") or card_language(name, revision)


def read_config_of(kind: type[Checkpoint], name: str, where: dict[str, Any]) -> PreTrainedConfig:
    """Read the configuration of a checkpoint of a kind.

    Raises:
        UserError: it cannot be read, or the model is not of this kind.
    """
    config = read_config(name, **where)
    remote = where["trust_remote_code"] and kind.auto.__name__ in (getattr(config, "auto_map", None) or {})
    if not remote and type(config) not in kind.configurations:
        family = getattr(config, "model_type", "") or "unknown"
        raise UserError(name, f"a {family} model has no CTC head", "take one of the wav2vec2, HuBERT or WavLM families")
    if family_of(config).input == "extracted":
        raise uncounted(config)
    return config


def read_tokenizer(name: str, where: dict[str, Any]) -> Any:
    """Return the checkpoint's tokenizer; None if it has none.

    Raises:
        UserError: it cannot be read.
    """
    brought = holds(name, "vocab.json", "tokenizer.json", "tokenizer_config.json")
    if brought is False:
        return None
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(name, **where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if brought:
            raise unreadable(name, error, "repair or remove its vocab.json and tokenizer_config.json") from error
        return None


def own_vocabulary(
    kind: type[Checkpoint],
    name: str,
    where: dict[str, Any],
    config: PreTrainedConfig,
    target_lang: str | None,
    language: str | None,
) -> tuple[Vocabulary | None, str | None]:
    """Return the vocabulary of a checkpoint, if it has one for CTC, and the language whose adapter is to be loaded."""
    tokenizer = read_tokenizer(name, where)
    adapter = choose_adapter(name, tokenizer, target_lang, language, saved_language(config) is not None)
    return vocabulary_of(name, tokenizer, config, kind.blank_of(config), language), adapter


def vocabulary_of(name: str, tokenizer: Any, config: Any, blank: int | None, language: str | None) -> Vocabulary | None:
    """Return the vocabulary of a checkpoint's tokenizer; None if it is none for CTC."""
    if tokenizer is None:
        return None
    if type(tokenizer) is Wav2Vec2CTCTokenizer:
        return Characters(tokenizer, language)
    if family_of(config).subwords and isinstance(tokenizer, PreTrainedTokenizerFast):
        blank = tokenizer.pad_token_id if blank is None else blank
        return None if blank is None else Subwords(tokenizer, int(blank), language)
    logger.warning("%s: its %s isn't a vocabulary for CTC; it is ignored", name, type(tokenizer).__name__)
    return None


def choose_vocabulary(
    name: str,
    config: PreTrainedConfig,
    own: Vocabulary | None,
    transcripts: Iterable[str] | None,
    language: str | None,
) -> Vocabulary:
    """Return the checkpoint's vocabulary if it fits the head, else that of the transcripts."""
    if own is not None and own.fits(config.vocab_size):
        return own
    if transcripts is None:
        lacking = "it has no vocabulary" if own is None else "its vocabulary doesn't fit its head"
        raise UserError(name, lacking, "fine-tune it first: then it has the transcripts' vocabulary")
    if own is not None:
        logger.warning("%s: its vocabulary doesn't fit its head of %d: both are replaced", name, config.vocab_size)
    tokenizer = build_tokenizer(transcripts, language)
    parts: tuple[Any, ...] = (config, getattr(config, "encoder_config", None))
    for part in parts:
        if hasattr(part, "vocab_size"):
            part.vocab_size = len(tokenizer)
    return Characters(tokenizer, language)


def renew_head(model: Any, new_weights: list[str]) -> list[str]:
    """Randomize a head of the right size for other characters; return its weights' names that are not yet listed."""
    names = []
    for head in family_of(model.config).head:
        module = model.get_submodule(head)
        torch.nn.init.normal_(module.weight, std=model.config.initializer_range)
        if getattr(module, "bias", None) is not None:
            torch.nn.init.zeros_(module.bias)
        names += [f"{head}.{key}" for key, _ in module.named_parameters()]
    return [name for name in names if name not in new_weights]


def describe_new(names: list[str], model: PreTrainedModel, from_scratch: bool) -> str:
    """Return one line on the weights that are random at the start."""
    if from_scratch:
        return f"only its architecture is used: all {len(names)} weights are new"
    shapes = {key: "x".join(map(str, value.shape)) for key, value in model.state_dict().items()}
    listed = ", ".join(f"{key} ({shapes[key]})" for key in names[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"new weights, random until trained: {listed}{more}; all others come from the checkpoint"
