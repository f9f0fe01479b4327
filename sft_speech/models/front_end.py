"""From waveforms to what a model takes, and from samples to its frames: exactly, and for each clip on its own.

Legend: B batch, S samples, T frames, F features of a frame.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from transformers import FeatureExtractionMixin, PreTrainedConfig, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

from sft_speech.audio.units import conv_frames
from sft_speech.errors import UserError

# The log-mel frames of SeamlessM4TFeatureExtractor, in samples.
MEL_WIDTH, MEL_STEP = 400, 160


class FrontEnd:
    """The feature extractor of a checkpoint together with the frame arithmetic of its model.

    Args:
        config: of a model on waveforms (wav2vec2 and its kin) or on log-mel features (wav2vec2-bert).
        extractor: the checkpoint's own.

    Raises:
        UserError: the number of frames of such a model isn't known, or its feature extractor is another one's.
    """

    def __init__(self, config: PreTrainedConfig, extractor: FeatureExtractionMixin) -> None:
        self.config: Any = config
        self.extractor: Any = extractor
        self.on_waveforms = hasattr(config, "conv_kernel")
        expected = Wav2Vec2FeatureExtractor if self.on_waveforms else SeamlessM4TFeatureExtractor
        if not self.on_waveforms and config.model_type != "wav2vec2-bert":
            why = "how many frames it makes of a clip isn't known here"
            raise UserError(f"a {config.model_type} model", why, "take one of the wav2vec2, HuBERT or WavLM families")
        if not isinstance(extractor, expected):
            given = f"a {config.model_type} model with a {type(extractor).__name__}"
            raise UserError(given, f"it takes a {expected.__name__}", "correct its preprocessor_config.json")
        self.rate = int(extractor.sampling_rate)
        self.receptive_field = self._receptive_field()

    @overload
    def frames(self, samples: int) -> int: ...
    @overload
    def frames(self, samples: np.ndarray) -> np.ndarray: ...
    def frames(self, samples: Any) -> Any:
        """Frames that the model makes of a clip, adapters included: exact, 0 if it is too short for one.

        Args:
            samples: a number, or an array of them.
        """
        config, frames = self.config, self.encoder_frames(samples)
        adapters = config.num_adapter_layers if getattr(config, "add_adapter", False) else 0
        if self.on_waveforms:
            # kernel 3 with a padding of 1 makes as many frames as kernel 1 with none
            return conv_frames(frames, [1] * adapters, [config.adapter_stride] * adapters) if adapters else frames
        for _ in range(adapters):
            kernel = config.adapter_kernel_size
            frames = conv_frames(frames + 2 * (kernel // 2), [kernel], [config.adapter_stride])
        return frames

    def encoder_frames(self, samples: Any) -> Any:
        """Those before adapters."""
        if self.on_waveforms:
            return conv_frames(samples, self.config.conv_kernel, self.config.conv_stride)
        return conv_frames(samples, [MEL_WIDTH], [MEL_STEP]) // self.extractor.stride

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        """The model's inputs, every clip normalized on its own samples, as the extractor does it to a clip alone.

        A clip shorter than the receptive field is followed by silence that counts as its own, so that the model gives
        it one frame (`frames` still says 0).

        Args:
            waveforms: B clips (S,), float, at the model's rate.

        Returns:
            "input_values" (B, S) or "input_features" (B, T, F), float32, and "attention_mask" (B, S) or
            (B, T), int64.
        """
        shortest = self.receptive_field
        if not self.on_waveforms:
            return self._log_mel([lengthened(np.asarray(clip, np.float32), shortest) for clip in waveforms])
        clips = [np.asarray(clip, np.float32) for clip in waveforms]
        own = np.array([max(len(clip), shortest) for clip in clips])
        values = np.full((len(clips), own.max()), self.extractor.padding_value, np.float32)
        for row, clip in zip(values, clips, strict=True):
            row[: max(len(clip), shortest)] = 0
            row[: len(clip)] = self._normalized(clip)
        mask = np.arange(own.max()) < own[:, None]
        return {"input_values": torch.from_numpy(values), "attention_mask": torch.from_numpy(mask).long()}

    def _normalized(self, clip: np.ndarray) -> np.ndarray:
        """(S,) with mean 0 and variance 1, if the checkpoint was trained so."""
        if not self.extractor.do_normalize or not len(clip):
            return clip
        return (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)

    def _log_mel(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        extracted = self.extractor(clips, sampling_rate=self.rate, return_tensors="pt")
        return {
            "input_features": extracted["input_features"].float(),
            "attention_mask": extracted["attention_mask"].long(),
        }

    def _receptive_field(self) -> int:
        """The fewest samples that make a frame of the encoder."""
        if not self.on_waveforms:
            return MEL_WIDTH + MEL_STEP * (self.extractor.stride - 1)
        samples = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


def lengthened(clip: np.ndarray, samples: int) -> np.ndarray:
    """A clip (S,) followed by silence up to so many samples."""
    return clip if len(clip) >= samples else np.pad(clip, (0, samples - len(clip)))


def default_extractor(config: PreTrainedConfig) -> FeatureExtractionMixin:
    """The feature extractor of a checkpoint that brings none: its family's."""
    if hasattr(config, "conv_kernel"):
        return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=wants_mask(config))
    return SeamlessM4TFeatureExtractor(padding_value=1.0)


def wants_mask(config: PreTrainedConfig) -> bool:
    """Whether plain transformers is to give the model an attention mask: what it was trained with.

    Group-norm checkpoints were trained without one, all others with one.
    """
    return getattr(config, "feat_extract_norm", "layer") != "group"
