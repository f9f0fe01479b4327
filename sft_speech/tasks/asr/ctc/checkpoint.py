"""A CTC checkpoint as the rest of the toolkit sees it: loaded from any transformers directory, saved as one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

from sft_speech.errors import UserError
from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.front_end import FrontEnd, default_extractor, wants_mask
from sft_speech.models.load import check_folder, first_line, holds, how_to_read_weights, quiet, unreadable
from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary, build_tokenizer, fits
from sft_speech.text.normalize import TranscriptNormalizer

logger = logging.getLogger(__name__)

LANGUAGE = "transcript_language"  # where the saved configuration remembers it; transformers keeps what it doesn't know


@dataclass
class Checkpoint:
    """A model with a CTC head and everything around it.

    Legend: B batch, S samples, T frames, L labels.

    Attributes:
        model: its padding is exact (see ``models/exact/encoders.py``): given the attention mask, a clip's logits
            do not depend on its neighbors. Everything else about it is plain transformers.
        front_end: waveforms to inputs, samples to frames.
        vocabulary: transcripts to labels and back.
        new_weights: names of the weights that the checkpoint didn't have and that start at random.
    """

    model: PreTrainedModel
    front_end: FrontEnd
    vocabulary: Vocabulary
    new_weights: list[str]

    @property
    def rate(self) -> int:
        """Samples per second that the model takes."""
        return self.front_end.rate

    @property
    def blank(self) -> int:
        """The label of CTC's blank."""
        return self.vocabulary.blank

    @property
    def feature_extractor(self) -> FeatureExtractionMixin:
        return self.front_end.extractor

    @property
    def tokenizer(self) -> Wav2Vec2CTCTokenizer:
        return self.vocabulary.tokenizer

    @property
    def normalizer(self) -> TranscriptNormalizer:
        """Writes transcripts in the characters of the vocabulary."""
        return self.vocabulary.normalizer

    @property
    def head_is_new(self) -> bool:
        """Whether the model has yet to learn what it transcribes."""
        return any("lm_head" in name for name in self.new_weights)

    # These come from objects without the model, so that a loader's worker that is sent one isn't sent the model.

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
        """The text of labels, blanks and repeats already gone."""
        return self.vocabulary.decode(ids)

    def collapse(self, frames: Iterable[int] | np.ndarray) -> list[int]:
        """The labels of a path of frames (T,): repeats merged, then blanks dropped."""
        return self.vocabulary.collapse(frames)

    def save(self, directory: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write what plain transformers loads: ``AutoModelForCTC``, ``AutoProcessor``, ``pipeline``."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Write everything but the weights and their configuration, so that no saved model is without."""
        of_features = self.model.config.model_type == "wav2vec2-bert"
        processor = Wav2Vec2BertProcessor if of_features else Wav2Vec2Processor
        with quiet():
            processor(self.feature_extractor, self.tokenizer).save_pretrained(directory)
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
) -> Checkpoint:
    """Load a checkpoint for transcribing or fine-tuning.

    The vocabulary is the checkpoint's own where it has one that fits its head; else it is built from the transcripts
    and the head made anew. CTC losses are summed, infinite ones zeroed. Weights are float32, however they were saved.

    Args:
        name: a directory, or an id on the Hub.
        transcripts: to build a vocabulary from; needed only where the checkpoint brings none.
        revision: branch, tag or commit on the Hub.
        overrides: attributes of the configuration (dropouts, SpecAugment masks); `None` leaves the checkpoint's.
        trust_remote_code: run code that the checkpoint brings. Change it only for one whose code you have read.
        allow_pickle: of a directory that holds no safetensors, read the pickle; see
            :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.
        from_scratch: the same architecture with random weights.
        new_vocabulary: build it from the transcripts although the checkpoint has one (another language, say).
        target_lang: of a checkpoint with adapters for many languages (MMS): the one to load, as "fra".
        language: of the transcripts, as num2words names it, for their numbers; `None`: as it was saved, else English.
        log: say which weights are new.

    Raises:
        UserError: no such checkpoint, not a CTC one, no weights or only pickled ones, damaged files, or no vocabulary
            and no transcripts.
    """
    name = str(name)
    where = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    config = read_config(name, where)
    how = {} if from_scratch else how_to_read_weights(name, allow_pickle)
    front_end = FrontEnd(config, read_extractor(name, where, config))
    language = language or str(getattr(config, LANGUAGE, "en"))
    own = None if new_vocabulary else read_tokenizer(name, where)
    vocabulary = choose_vocabulary(name, config, own, transcripts, language, target_lang)
    for attribute, value in (overrides or {}).items():
        if value is not None and hasattr(config, attribute):
            setattr(config, attribute, value)
    config.update({"pad_token_id": vocabulary.blank, "ctc_loss_reduction": "sum", "ctc_zero_infinity": True})
    if language != "en":
        config.update({LANGUAGE: language})
    model, new_weights = build_model(name, where | how, config, from_scratch, new_vocabulary)
    if target_lang and not new_vocabulary:
        load_adapter(name, model, target_lang, vocabulary, new_weights, how.get("use_safetensors", True))
    make_padding_exact(model)
    checkpoint = Checkpoint(model.eval(), front_end, vocabulary, new_weights)
    if log and new_weights:
        untrained = checkpoint.head_is_new and transcripts is None
        level = logging.WARNING if untrained else logging.INFO
        logger.log(level, "%s: %s", name, describe_new(new_weights, model, from_scratch))
    return checkpoint


def read_config(name: str, where: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a checkpoint, or a `UserError` that says why it isn't a CTC one."""
    check_folder(name)
    try:
        config = AutoConfig.from_pretrained(name, **where)
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(name, error, "check the name, or the connection to the Hub") from error
    remote = where["trust_remote_code"] and "AutoModelForCTC" in (getattr(config, "auto_map", None) or {})
    if not remote and type(config) not in MODEL_FOR_CTC_MAPPING:
        kind = getattr(config, "model_type", "") or "unknown"
        raise UserError(name, f"a {kind} model has no CTC head", "take one of the wav2vec2, HuBERT or WavLM families")
    return config


def read_extractor(name: str, where: dict[str, Any], config: PreTrainedConfig) -> FeatureExtractionMixin:
    """The checkpoint's own feature extractor, else its family's."""
    brought = holds(name, "preprocessor_config.json", "processor_config.json")
    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(name, **where) if brought is not False else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if brought:
            raise unreadable(name, error, "repair or remove its preprocessor_config.json") from error
        extractor = None
    if extractor is None:
        extractor = default_extractor(config)
        logger.info(
            "%s brings no feature extractor: that of its family is taken (%d Hz)", name, extractor.sampling_rate
        )
    # What is saved: an exact padding and a mask are ours, plain transformers has to go by the checkpoint's training.
    extractor.return_attention_mask = wants_mask(config)
    return extractor


def read_tokenizer(name: str, where: dict[str, Any]) -> Wav2Vec2CTCTokenizer | None:
    """The checkpoint's own tokenizer; `None` if it brings none, or one that isn't of characters for CTC."""
    brought = holds(name, "vocab.json", "tokenizer.json", "tokenizer_config.json")
    if brought is False:
        return None
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(name, **where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if brought:
            raise unreadable(name, error, "repair or remove its vocab.json and tokenizer_config.json") from error
        return None
    if type(tokenizer) is not Wav2Vec2CTCTokenizer:
        logger.warning("%s: its %s isn't a vocabulary for CTC; it is left aside", name, type(tokenizer).__name__)
        return None
    return tokenizer


def choose_vocabulary(
    name: str,
    config: PreTrainedConfig,
    own: Wav2Vec2CTCTokenizer | None,
    transcripts: Iterable[str] | None,
    language: str,
    target_lang: str | None,
) -> Vocabulary:
    """The checkpoint's own vocabulary if it fits the head (or brings one for its language), else one of the transcripts
    (and a head of its size).
    """
    if own is not None and target_lang:
        choose_language(name, own, target_lang)
        return Vocabulary(own, language)
    if own is not None and fits(own, config.vocab_size):
        return Vocabulary(own, language)
    if transcripts is None:
        lacking = "it has no vocabulary" if own is None else "its vocabulary doesn't fit its head"
        raise UserError(name, lacking, "fine-tune it first: then it has one of the transcripts")
    if own is not None:
        logger.warning("%s: its vocabulary doesn't fit its head of %d: both are made anew", name, config.vocab_size)
    tokenizer = build_tokenizer(transcripts, language)
    config.vocab_size = len(tokenizer)
    return Vocabulary(tokenizer, language)


def build_model(
    name: str, where: dict[str, Any], config: PreTrainedConfig, from_scratch: bool, new_vocabulary: bool
) -> tuple[PreTrainedModel, list[str]]:
    """The model in float32, and the names of its weights that the checkpoint didn't have."""
    if from_scratch:
        model = AutoModelForCTC.from_config(config, trust_remote_code=where["trust_remote_code"]).float()
        return model, [key for key, _ in model.named_parameters()]
    try:
        with quiet(bars=not Path(name).is_dir()):
            model, found = AutoModelForCTC.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **where,
            )
    except Exception as error:  # a cut file raises the reader's own error, a wrong shape RuntimeError, the Hub its own
        raise unreadable(
            name, error, "check its weights (safetensors, from the Hub), or download them again"
        ) from error
    mismatched = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    new = {*found["missing_keys"], *mismatched}
    names = [key for key, _ in model.named_parameters() if key in new]
    base = model.base_model_prefix
    if sum(f"{base}.encoder." in key for key in names) > len(list(model.base_model.encoder.parameters())) / 2:
        kind = config.model_type
        raise UserError(name, f"its weights aren't those of a {kind} model", "check that config.json belongs to them")
    if new_vocabulary:  # a head of the same size, but of other characters
        names += [f"lm_head.{key}" for key, _ in model.lm_head.named_parameters() if f"lm_head.{key}" not in names]
        torch.nn.init.normal_(model.lm_head.weight, std=config.initializer_range)
        torch.nn.init.zeros_(model.lm_head.bias)
    return model, names


def choose_language(name: str, tokenizer: Wav2Vec2CTCTokenizer, target_lang: str) -> None:
    """Switch a vocabulary of many languages to one of them."""
    try:
        tokenizer.set_target_lang(target_lang)
    except ValueError as error:
        raise UserError(
            f"target_lang {target_lang}", str(error).rstrip("."), f"leave it out, or look into {name}"
        ) from error


def load_adapter(
    name: str,
    model: PreTrainedModel,
    target_lang: str,
    vocabulary: Vocabulary,
    new_weights: list[str],
    use_safetensors: bool,
) -> None:
    """Load a language's adapter and head, which are weights of the checkpoint too."""
    given = f"target_lang {target_lang}"
    try:
        with quiet():
            model.load_adapter(target_lang, use_safetensors=use_safetensors)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        why = f"{name} has no such adapter ({first_line(error)})"
        raise UserError(given, why, "leave target_lang out, or take a checkpoint with adapters") from error
    if not fits(vocabulary.tokenizer, model.config.vocab_size):
        raise UserError(given, f"in {name} its vocabulary doesn't fit its head", "give new_vocabulary and transcripts")
    model.lm_head.float()
    loaded = {"lm_head.weight", "lm_head.bias", *(key for key in new_weights if ".adapter_layer." in key)}
    new_weights[:] = [key for key in new_weights if key not in loaded]


def describe_new(names: list[str], model: PreTrainedModel, from_scratch: bool) -> str:
    """One line on the weights that start at random."""
    if from_scratch:
        return f"only its architecture is taken: all {len(names)} weights are new"
    shapes = {key: "x".join(map(str, value.shape)) for key, value in model.named_parameters()}
    listed = ", ".join(f"{key} ({shapes[key]})" for key in names[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"new weights, random until trained: {listed}{more}; all others are the checkpoint's"
