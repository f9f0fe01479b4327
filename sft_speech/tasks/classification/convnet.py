"""A small convolutional classifier over log-mels, trained from random weights: the baseline of ``model: convnet``.

ConvNeXt blocks (Liu et al. 2022, arXiv:2201.03545) over time and frequency. Layer norms over the channels of a position
and zeros past the end of a clip make its logits independent of the other clips in the batch.

Importing this module registers the model: the Auto classes and ``pipeline("audio-classification", DIR)`` then load it.

Legend: B batch, T pairs of log-mel frames, M mel bands, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from sft_speech.models.families import FAMILIES, Family, always


class ConvnetConfig(PreTrainedConfig):
    """Shape of the network.

    Args:
        channels: of each stage, which halves time and frequency (the first stage quarters frequency).
        blocks: residual blocks of each stage.
        dropout: before the classifier.
    """

    model_type = "sft-speech-convnet"

    channels: tuple[int, ...] | list[int] = (64, 128)
    blocks: tuple[int, ...] | list[int] = (2, 3)
    dropout: float = 0.1
    initializer_range: float = 0.02


class Block(nn.Module):
    """A 7 x 7 depthwise convolution and a feed-forward layer, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, hidden: Tensor, own: Tensor) -> Tensor:
        """Map (B, T, M, C) to the same shape; ``own`` (B, T, 1, 1) is 0 past the end of a clip."""
        seen = self.spatial(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (hidden + self.narrow(functional.gelu(self.widen(self.norm(seen))))) * own


class ConvnetEncoder(nn.Module):
    """Log-mels (B, T, 2 M) to a vector (B, C) per clip: the mean over its own frames and all bands."""

    def __init__(self, config: ConvnetConfig) -> None:
        super().__init__()
        self.merges, self.stages = nn.ModuleList(), nn.ModuleList()  # a merge, and the list of blocks, of each stage
        before, bands = 1, 4
        for channels, blocks in zip(config.channels, config.blocks, strict=True):
            self.merges.append(nn.Sequential(nn.Linear(2 * bands * before, channels), nn.LayerNorm(channels)))
            self.stages.append(nn.ModuleList(Block(channels) for _ in range(blocks)))
            before, bands = channels, 2
        self.norm = nn.LayerNorm(before)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        own = mask[..., None, None].to(features.dtype)
        hidden = features.unflatten(2, (2, -1))[..., None]  # (B, T, 2, M, 1)
        blocks: Any
        for number, (merge, blocks) in enumerate(zip(self.merges, self.stages, strict=True)):
            if number:
                hidden = functional.pad(hidden, (0, 0, 0, 0, 0, hidden.shape[1] % 2)).unflatten(1, (-1, 2))
                own = own[:, ::2]  # a frame counts if the first of its two does
            hidden = hidden.unflatten(3, (-1, 2 if number else 4)).transpose(2, 3).flatten(3)
            hidden = merge(hidden) * own  # (B, T, M, C), with this stage's T and M
            for block in blocks:
                hidden = block(hidden, own)
        return self.norm(hidden.mean(2).sum(1) / own.sum(1).squeeze(-1).clamp(min=1))


class ConvnetForAudioClassification(PreTrainedModel):
    """The network with a linear classifier."""

    config_class = ConvnetConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"

    def __init__(self, config: ConvnetConfig) -> None:
        super().__init__(config)
        self.encoder = ConvnetEncoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.channels[-1], int(config.num_labels or 2))
        self.post_init()

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return logits (B, labels) of log-mels (B, T, 2 M) with a mask (B, T)."""
        mask = torch.ones(input_features.shape[:2]) if attention_mask is None else attention_mask
        pooled = self.encoder(input_features, mask.to(input_features.device))
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))


def feature_extractor() -> SeamlessM4TFeatureExtractor:
    """Return an extractor of 80 mel bands every 10 ms, two frames side by side, each band normalized over the clip."""
    return SeamlessM4TFeatureExtractor(padding_value=0.0)


FAMILIES[ConvnetConfig.model_type] = Family(
    ConvnetConfig.model_type,
    frozenset({"classification"}),
    input="log-mel",
    extractor="SeamlessM4TFeatureExtractor",
    feature_encoder=None,
    trained_with_mask=always,
    spec_augment=None,
)
AutoConfig.register(ConvnetConfig.model_type, ConvnetConfig, exist_ok=True)
AutoModelForAudioClassification.register(ConvnetConfig, ConvnetForAudioClassification, exist_ok=True)
AutoFeatureExtractor.register(ConvnetConfig, SeamlessM4TFeatureExtractor, exist_ok=True)
