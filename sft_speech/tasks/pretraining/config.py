"""The options of continued pre-training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sft_speech.errors import UserError
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.settings import option

DROPOUTS = (
    "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "feat_quantizer_dropout",
    "layerdrop",
)  # fmt: skip


@dataclasses.dataclass
class PretrainConfig(FinetuneConfig):
    """Options of pre-training; their defaults are those published for wav2vec 2.0 base (Baevski et al. 2020)."""

    # The corpora
    min_seconds: float = option(2.0, "shorter recordings are dropped", 0.0)
    max_seconds: float = option(15.6, "longer recordings are cut into equal pieces of at most this", 0.1)

    # The objective
    mask_time_prob: float = option(0.65, "masked share of frames, before overlaps", 0.01, 1.0)
    mask_time_length: int = option(10, "frames per mask", 2)
    num_negatives: int = option(100, "other masked frames of the recording that a target is told from", 1)
    diversity_loss_weight: float = option(0.1, "weight of the loss that asks for all codes to be used", 0.0)
    feature_penalty: float | None = option(
        None,
        "weight of the mean square of the convolutions' output; null: 10, or 0 for a model without a quantizer",
        0.0,
    )
    feature_grad_mult: float = option(0.1, "factor on the gradient of the convolutions", 0.0, 1.0)
    gumbel_start: float | None = option(
        None, "temperature of the quantizer at the start; null: gumbel_end, or 2.0 for a new quantizer", 0.01
    )
    gumbel_end: float = option(0.5, "temperature of the quantizer at the end", 0.01)
    gumbel_share: float = option(0.69, "share of the run over which the temperature falls, geometrically", 0.0, 1.0)
    metric_for_best_model: Literal["loss", "accuracy"] = option("loss", "selects the best checkpoint")

    # Regularization; null keeps the checkpoint's
    hidden_dropout: float | None = option(None, "after attention and feed-forward; null: the checkpoint's", 0.0, 1.0)
    activation_dropout: float | None = option(None, "inside feed-forward; null: the checkpoint's", 0.0, 1.0)
    attention_dropout: float | None = option(
        None, "of attention weights; above 0 attention is slower; null: the checkpoint's", 0.0, 1.0
    )
    feat_proj_dropout: float | None = option(None, "after the feature projection; null: the checkpoint's", 0.0, 1.0)
    feat_quantizer_dropout: float | None = option(None, "before the quantizer; null: the checkpoint's", 0.0, 1.0)
    layerdrop: float | None = option(None, "share of layers skipped in a step; null: the checkpoint's", 0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gumbel_start is not None and self.gumbel_start < self.gumbel_end:
            given = f"gumbel_start {self.gumbel_start:g}, gumbel_end {self.gumbel_end:g}"
            raise UserError(given, "the temperature only falls", "lower gumbel_end, or raise gumbel_start")

    @property
    def dropouts(self) -> dict[str, float | None]:
        """Dropouts by their names in the model's configuration; None keeps the checkpoint's value."""
        return {name: getattr(self, name) for name in DROPOUTS}

    @property
    def columns(self) -> dict[str, str | None]:
        """Transcripts are not needed."""
        return {"text": None, **super().columns}
