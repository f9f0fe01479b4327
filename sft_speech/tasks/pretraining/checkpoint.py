"""A model to pre-train and its front end: loaded from any checkpoint of its family, saved for plain transformers."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import MODEL_FOR_PRETRAINING_MAPPING

from sft_speech.errors import UserError
from sft_speech.models.adapt import exact_padding, set_regularization
from sft_speech.models.base_front_end import FrontEnd
from sft_speech.models.families import FAMILIES, family_of
from sft_speech.models.front_end import make_front_end, read_extractor
from sft_speech.models.load import load_pretrained, quiet, read_config
from sft_speech.tasks.pretraining.model import pretraining_class
from sft_speech.tasks.pretraining.targets import Targets

if TYPE_CHECKING:
    from sft_speech.tasks.pretraining.config import PretrainConfig

logger = logging.getLogger(__name__)

HEAD = ("quantizer", "project_hid", "project_q")  # what only pre-training uses


@dataclass
class Checkpoint:
    """A model to pre-train.

    Attributes:
        model: a ``...ForPreTraining`` whose results for a clip do not depend on the other clips in its batch.
        front_end: waveforms to the inputs of the model.
        new_weights: names of the weights that the checkpoint lacked, and that are random at the start.
    """

    model: Any
    front_end: FrontEnd
    new_weights: list[str] = field(default_factory=list)

    @property
    def rate(self) -> int:
        """Samples per second of the model's input."""
        return self.front_end.rate

    @property
    def head_is_new(self) -> bool:
        """Whether the quantizer or a projection is random, so that there is no loss to speak of yet."""
        return any(name.startswith(HEAD) for name in self.new_weights)

    def targets(self, share: float, span: int, negatives: int) -> Targets:
        """Return what draws the targets of utterances."""
        quantizer = self.model.quantizer
        frames = self.front_end.masked_frames
        return Targets(frames, share, span, negatives, (quantizer.num_groups, quantizer.num_vars))

    def save(self, directory: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Save the model as plain transformers loads it: ``AutoModelForPreTraining.from_pretrained(directory)``."""
        with quiet():
            self.model.save_pretrained(directory, state_dict=weights)
        self.save_processor(directory)

    def save_processor(self, directory: str | Path) -> None:
        """Write the feature extractor."""
        self.front_end.extractor.save_pretrained(directory)


def load_to_pretrain(config: PretrainConfig) -> Checkpoint:
    """Load a checkpoint: a pre-trained one, or a fine-tuned one, which has no quantizer.

    Raises:
        UserError: there is no such model, or transformers has no self-supervised loss for it.
    """
    where: dict[str, Any] = {"revision": config.revision or "main", "trust_remote_code": False}
    settings: Any = read_config(config.checkpoint, **where)
    check_family(config.checkpoint, settings)
    set_regularization(settings, config.dropouts)
    settings.num_negatives, settings.diversity_loss_weight = config.num_negatives, config.diversity_loss_weight
    if not (settings.mask_time_prob or settings.mask_feature_prob):  # else there would be no vector for masked frames
        settings.mask_time_prob = config.mask_time_prob
    checkpoint = load(config.checkpoint, settings, where, config.allow_pickle, config.from_scratch)
    checkpoint.model.feature_grad_mult = config.feature_grad_mult
    if checkpoint.new_weights:
        logger.info("%s: new weights, random until trained: %s", config.model, shown(checkpoint.new_weights))
    return checkpoint


def load_pretrained_model(name: str, allow_pickle: bool = False) -> Checkpoint:
    """Load a pre-trained model to evaluate it.

    Raises:
        UserError: there is no such model, or it has no trained quantizer.
    """
    where: dict[str, Any] = {"revision": "main", "trust_remote_code": False}
    settings = read_config(name, **where)
    check_family(name, settings)
    checkpoint = load(name, settings, where, allow_pickle)
    if checkpoint.head_is_new:
        raise UserError(name, "it has no trained quantizer", "pre-train it: sft-speech pretrain")
    return checkpoint


def check_family(name: str, settings: Any) -> None:
    """Raise UserError if a model of this configuration cannot be pre-trained."""
    if "pretraining" not in family_of(settings).tasks:
        kinds = ", ".join(kind for kind, family in FAMILIES.items() if "pretraining" in family.tasks)
        why = f"transformers has no self-supervised loss for a {settings.model_type} model"
        raise UserError(name, why, f"take one of {kinds}")
    if getattr(settings, "add_adapter", False):
        why = "it has an adapter, which belongs to its head"
        raise UserError(name, why, "start from the checkpoint that it was fine-tuned from")


def load(
    name: str, settings: Any, where: dict[str, Any], allow_pickle: bool = False, from_scratch: bool = False
) -> Checkpoint:
    """Load the weights of a checkpoint, with exact padding."""
    extractor = read_extractor(name, where, settings)
    model, new = load_pretrained(
        pretraining_class(MODEL_FOR_PRETRAINING_MAPPING[type(settings)]),
        name,
        config=settings,
        revision=where["revision"],
        allow_pickle=allow_pickle,
        from_scratch=from_scratch,
    )
    return Checkpoint(exact_padding(model), make_front_end(model.config, extractor), new)


def shown(names: Collection[str]) -> str:
    """Return the names of weights, a module for its weights; "all" if they are many."""
    modules = list(dict.fromkeys(name.split(".")[0] if name.startswith(HEAD) else name for name in names))
    return ", ".join(modules) if len(modules) <= 8 else "all"
