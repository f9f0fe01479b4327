"""A classifier, its inputs and its labels: loaded from any pretrained encoder, saved for plain transformers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

from sft_speech.errors import UserError
from sft_speech.models.adapt import exact_padding, head_names, set_regularization
from sft_speech.models.base_front_end import FrontEnd
from sft_speech.models.exported import ExportedModel, exported_format, open_session
from sft_speech.models.families import family_of
from sft_speech.models.front_end import make_front_end, read_extractor
from sft_speech.models.load import load_pretrained, quiet, read_config
from sft_speech.tasks.classification import convnet
from sft_speech.tasks.classification.labels import Labels

if TYPE_CHECKING:
    from sft_speech.tasks.classification.config import FinetuneClassificationConfig

logger = logging.getLogger(__name__)

CONVNET = "convnet"


@dataclass
class Checkpoint:
    """A classifier with its front end and labels.

    Attributes:
        model: the logits of a clip do not depend on the other clips in its batch.
        front_end: waveforms to the inputs of the model.
        labels: classes by their id.
        head_is_new: whether the head is random, so that the model cannot classify yet.
        new_weights: names of the weights that the checkpoint lacked, and that are random at the start.
    """

    model: PreTrainedModel
    front_end: FrontEnd
    labels: Labels
    head_is_new: bool = False
    new_weights: list[str] = field(default_factory=list)

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""
        return self.front_end.rate

    @property
    def input_seconds(self) -> float | None:
        """Length to which every clip is padded or cut; None if clips keep their length."""
        samples = self.front_end.max_samples
        return None if samples is None else samples / self.rate

    def save(self, directory: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Save the model as plain transformers loads it: ``pipeline("audio-classification", directory)``."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Write the feature extractor."""
        self.front_end.extractor.save_pretrained(directory)


def load_classifier(name: str | Path, allow_pickle: bool = False) -> Checkpoint:
    """Load a fine-tuned classifier, or an exported one.

    Raises:
        UserError: there is no such model, or it has no trained head.
    """
    name = str(name)
    where = {"revision": "main", "trust_remote_code": False}
    config = read_classifier_config(name, where)
    extractor = read_extractor(name, where, config)
    if exported_format(name):
        exported: Any = ExportedModel(config, open_session(name)).eval()
        return Checkpoint(exported, make_front_end(config, extractor), own_labels(config))
    model, new = load_pretrained(AutoModelForAudioClassification, name, config=config, allow_pickle=allow_pickle)
    if set(new) & head_names(model):
        raise UserError(name, "it has no trained classifier", "fine-tune it: sft-speech finetune-classification")
    return Checkpoint(exact_padding(model), make_front_end(model.config, extractor), own_labels(config))


def load_to_finetune(config: FinetuneClassificationConfig, labels: Labels, longest: float) -> Checkpoint:
    """Load a pretrained encoder with a head for these labels.

    The head of the checkpoint is kept if it has exactly these labels; otherwise a new one starts at random.

    Args:
        longest: seconds of the longest training clip; a Whisper encoder is shortened to it, or to ``encoder_seconds``.

    Raises:
        UserError: there is no such model, or it cannot classify audio.
    """
    name, where = config.checkpoint, {"revision": config.revision or "main", "trust_remote_code": False}
    plain = name == CONVNET and not Path(name).exists()
    if plain:
        check_all_is_trained(config)
    settings: PreTrainedConfig = convnet.ConvnetConfig() if plain else read_classifier_config(name, where)
    extractor = convnet.feature_extractor() if plain else read_extractor(name, where, settings)
    kept = own_labels(settings)
    same = set(kept.names) == set(labels.names) and kept.multi == labels.multi
    labels = kept if same else labels
    set_options(settings, config, labels)
    model, new = load_pretrained(
        AutoModelForAudioClassification,
        name,
        config=settings,
        revision=config.revision,
        allow_pickle=config.allow_pickle,
        from_scratch=config.from_scratch or plain,
        new_head=True,
    )
    if "layer_weights" in new:  # transformers leaves it as torch.empty made it (5.23)
        weights: Any = model.layer_weights
        nn.init.constant_(weights, 1 / len(weights))
    new += renew_head(model, len(labels.names)) if not same else []
    if isinstance(extractor, WhisperFeatureExtractor):
        shorten(model, extractor, config.encoder_seconds or max(1, math.ceil(longest)))
    few = ", ".join(dict.fromkeys(new)) if len(set(new)) <= 8 else "all"
    head = f"new weights, random until trained: {few}" if new else "the head is kept because it has these labels"
    logger.info("%s: %d labels; %s", name, len(labels.names), head)
    head_is_new = not same or config.from_scratch or plain or bool(set(new) & head_names(model))
    return Checkpoint(exact_padding(model), make_front_end(model.config, extractor), labels, head_is_new, new)


def check_all_is_trained(config: FinetuneClassificationConfig) -> None:
    """Check that no part of a model that is random at the start stays as it is.

    Raises:
        UserError: an option freezes parts.
    """
    shown = {
        "train": f"train [{', '.join(config.train)}]" if config.train else "",
        "freeze_encoder": "freeze_encoder" if config.freeze_encoder else "",
        "lora_rank": f"lora_rank {config.lora_rank}" if config.lora_rank else "",
    }
    for key, given in shown.items():
        if given:
            why = f"{config.model} starts from random weights, and what is not trained would stay random"
            raise UserError(given, why, f"leave {key} out")


def read_classifier_config(name: str, where: dict[str, Any]) -> PreTrainedConfig:
    """Read the configuration of a checkpoint.

    Raises:
        UserError: it cannot be read, or transformers has no classifier for such a model.
    """
    config = read_config(name, **where)
    if type(config) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        why = f"transformers has no audio classifier for a {config.model_type} model"
        raise UserError(name, why, "take one of the wav2vec2 family, Whisper or AST, or convnet")
    return config


def own_labels(config: PreTrainedConfig) -> Labels:
    """Return the labels of a checkpoint's head from its configuration."""
    by_id: dict[Any, Any] = config.id2label or {}
    names = tuple(str(by_id[id]) for id in sorted(by_id))
    return Labels(names, config.problem_type == "multi_label_classification")


def set_options(settings: PreTrainedConfig, config: FinetuneClassificationConfig, labels: Labels) -> None:
    """Write labels, dropouts and masks into the configuration of a model.

    Raises:
        UserError: the model has no such setting.
    """
    settings.id2label = dict(enumerate(labels.names))
    settings.label2id = {name: id for id, name in enumerate(labels.names)}
    settings.problem_type = "multi_label_classification" if labels.multi else "single_label_classification"
    set_regularization(settings, config.regularization)
    if config.weighted_layers:
        if not hasattr(settings, "use_weighted_layer_sum"):
            raise UserError("weighted_layers", f"a {settings.model_type} model has no such setting", "leave it out")
        settings.update({"use_weighted_layer_sum": True})


def renew_head(model: Any, classes: int) -> list[str]:
    """Give a model a last layer with random weights, and return the names of these weights."""
    layers = {name: one for name, one in model.named_modules() if name.startswith("classifier")}
    name, last = [(name, one) for name, one in layers.items() if isinstance(one, nn.Linear)][-1]
    fresh = nn.Linear(last.in_features, classes)
    nn.init.normal_(fresh.weight, std=getattr(model.config, "initializer_range", 0.02))
    nn.init.zeros_(fresh.bias)
    model.set_submodule(name, fresh)
    return [f"{name}.weight", f"{name}.bias"]


def shorten(model: Any, extractor: WhisperFeatureExtractor, seconds: int) -> None:
    """Shorten a Whisper encoder to ``seconds``: its log-mels, and its positions, which are fixed sinusoids.

    Every clip is padded or cut to that length, here as in plain transformers, which reads the length from the saved
    files; so both give the same logits.

    Raises:
        UserError: the encoder is shorter than that.
    """
    if seconds > extractor.chunk_length:
        given = f"encoder_seconds {seconds}"
        raise UserError(given, f"the encoder takes {extractor.chunk_length} s", "lower encoder_seconds, or max_seconds")
    encoder = family_of(model.config).body_of(model)
    positions = model.config.max_source_positions * seconds // extractor.chunk_length
    sinusoids = encoder.embed_positions.weight[:positions].clone()
    encoder.embed_positions = nn.Embedding.from_pretrained(sinusoids, freeze=True)
    model.config.max_source_positions = encoder.max_source_positions = positions
    extractor.chunk_length, extractor.n_samples = seconds, seconds * extractor.sampling_rate
    extractor.nb_max_frames = extractor.n_samples // extractor.hop_length
    logger.info("the encoder takes %d s of every clip: shorter ones are padded, longer ones cut", seconds)
