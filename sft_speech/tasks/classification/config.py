"""The options of fine-tuning a classifier."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneEncoderConfig
from sft_speech.options.settings import option


@dataclasses.dataclass
class FinetuneClassificationConfig(FinetuneEncoderConfig):
    """Options of a run that fine-tunes a classifier. ``model: convnet`` is a small network from random weights."""

    # The corpora
    label_column: str | None = option(None, "column of the label, if it has no usual name such as 'label'")
    multi_label: bool = option(False, "a clip may have several labels, written as `a|b`; each is decided independently")
    min_label_count: int = option(2, "labels with fewer training clips are dropped with their clips", 1)
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: clips of rare classes count more, as if all classes were equally frequent"
    )

    # The model
    freeze_encoder: bool = option(False, "train only the head")
    weighted_layers: bool = option(False, "classify a learned mean of all layers instead of the last one")
    encoder_seconds: int | None = option(
        None,
        "Whisper: seconds that the encoder takes of every clip, padded or cut; null: the longest training clip",
        1,
        30,
    )
    metric_for_best_model: Literal["accuracy", "macro_f1", "loss"] = option("accuracy", "selects the best checkpoint")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("freeze_encoder_steps", "unfreeze_every_steps", "train"):
            if self.freeze_encoder and getattr(self, name):
                why = "the first freezes the encoder for the whole run"
                raise UserError(f"freeze_encoder and {name}", why, "keep one of them")

    @property
    def columns(self) -> dict[str, str | None]:
        """Transcripts are not needed."""
        return {**super().columns, "label": self.label_column}
