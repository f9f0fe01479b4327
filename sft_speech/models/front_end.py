"""Model inputs from waveforms, and numbers of frames from numbers of samples, exact and separate for each clip.

Legend: B batch, S samples, T frames, F features of a frame.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoFeatureExtractor, FeatureExtractionMixin, PreTrainedConfig

from sft_speech.audio.units import conv_frames
from sft_speech.errors import UserError
from sft_speech.machine import installer
from sft_speech.models.base_front_end import FrontEnd, receptive_field
from sft_speech.models.families import Input, family_of
from sft_speech.models.load import holds, unreadable
from sft_speech.models.subsampled_front_end import (
    NormalizedLogMelFrontEnd,
    StackedLogMelFrontEnd,
    UnpaddedLogMelFrontEnd,
)

logger = logging.getLogger(__name__)


class WaveformFrontEnd(FrontEnd):
    """Waveforms for wav2vec 2.0 and its relatives: "input_values" and "attention_mask" (B, S)."""

    def frames(self, samples: Any) -> Any:
        frames = self.encoder_frames(samples)
        if not getattr(self.config, "add_adapter", False):
            return frames
        adapters = self.config.num_adapter_layers
        # kernel 3 with a padding of 1 makes as many frames as kernel 1 with none
        return conv_frames(frames, [1] * adapters, [self.config.adapter_stride] * adapters)

    def encoder_frames(self, samples: Any) -> Any:
        return conv_frames(samples, *self.convolutions)

    @property
    def convolutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """Kernels and strides of the convolutions over the waveform."""
        return family_of(self.config).convolutions(self.config)

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        shortest = self.receptive_field
        clips = [np.asarray(clip, np.float32) for clip in waveforms]
        own = np.array([max(len(clip), shortest) for clip in clips])
        values = np.full((len(clips), own.max()), self.extractor.padding_value, np.float32)
        for row, clip in zip(values, clips, strict=True):
            row[: max(len(clip), shortest)] = 0
            row[: len(clip)] = self._normalized(clip)
        mask = np.arange(own.max()) < own[:, None]
        return {"input_values": torch.from_numpy(values), "attention_mask": torch.from_numpy(mask).long()}

    def _normalized(self, clip: np.ndarray) -> np.ndarray:
        """Return (S,) with mean 0 and variance 1, if the checkpoint was trained that way."""
        if not self.extractor.do_normalize or not len(clip):
            return clip
        return (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)

    def _receptive_field(self) -> int:
        return receptive_field(*self.convolutions)


class BlockFrontEnd(WaveformFrontEnd):
    """Waveforms for Moonshine Streaming, padded to whole blocks of samples; the last block of a clip may be a part."""

    def encoder_frames(self, samples: Any) -> Any:
        samples = np.asarray(samples)
        padded = np.where(samples < self.block, 0, samples + self.block - 1)
        return conv_frames(padded, *self.convolutions)

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        made = super().features(waveforms)
        missing = -made["input_values"].shape[1] % self.block
        return {name: torch.nn.functional.pad(value, (0, missing)) for name, value in made.items()}

    @property
    def block(self) -> int:
        """Samples of a block."""
        return self.convolutions[0][0]


class LogMelFrontEnd(FrontEnd):
    """Log-mel frames for wav2vec2-bert: "input_features" (B, T, F) and "attention_mask" (B, T)."""

    WIDTH, STEP = 400, 160  # of a frame of SeamlessM4TFeatureExtractor, in samples

    def frames(self, samples: Any) -> Any:
        config, frames = self.config, self.encoder_frames(samples)
        for _ in range(config.num_adapter_layers if config.add_adapter else 0):
            kernel = config.adapter_kernel_size
            frames = conv_frames(frames + 2 * (kernel // 2), [kernel], [config.adapter_stride])
        return frames

    def encoder_frames(self, samples: Any) -> Any:
        return conv_frames(samples, [self.WIDTH], [self.STEP]) // self.extractor.stride

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        return self._extracted(waveforms)

    def _receptive_field(self) -> int:
        return self.WIDTH + self.STEP * (self.extractor.stride - 1)


class FilterBankFrontEnd(FrontEnd):
    """Kaldi's filter banks for Speech2Text, normalized over each clip's own frames.

    They are "input_features" (B, T, F) and "attention_mask" (B, T).
    """

    WIDTH, STEP = 400, 160  # of a frame of Kaldi, in samples
    time_axis = 1

    def encoder_frames(self, samples: Any) -> Any:
        frames = conv_frames(samples, [self.WIDTH], [self.STEP])
        layers = self.config.num_conv_layers
        return conv_frames(frames, [1] * layers, [2] * layers)  # they are padded on both sides

    def masked_frames(self, samples: int) -> int:
        return int(conv_frames(samples, [self.WIDTH], [self.STEP]))

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        with np.errstate(divide="ignore", invalid="ignore"):
            made = self._extracted(waveforms, padding=True, return_attention_mask=True)
        # Of digital silence and of a single frame the variance is 0, by which the extractor divides.
        return made | {"input_features": made["input_features"].nan_to_num(0.0, 0.0, 0.0)}

    def _receptive_field(self) -> int:
        return self.WIDTH


class FixedFrontEnd(FrontEnd):
    """Spectrograms of a fixed length, to which clips are padded with silence or cut.

    Attributes:
        positions: frames that the encoder makes of every clip.
    """

    positions: int

    def encoder_frames(self, samples: Any) -> Any:
        return self.positions if isinstance(samples, int) else np.full_like(samples, self.positions)

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        return self._extracted(waveforms)

    def _receptive_field(self) -> int:
        return 400  # 25 ms: Kaldi makes no frame of less

    def _check_lengths(self, taken: int, given: int) -> None:
        if taken != given:
            why = f"it takes {taken} log-mel frames, its feature extractor makes {given}"
            raise UserError(f"a {self.config.model_type} model", why, "correct its preprocessor_config.json")


class SpectrogramFrontEnd(FixedFrontEnd):
    """Spectrograms of AST: "input_values" (B, T, F)."""

    def __init__(self, config: PreTrainedConfig, extractor: Any) -> None:
        super().__init__(config, extractor)
        self.max_samples = extractor.max_length * self.rate // 100  # Kaldi's frames of 10 ms
        self._check_lengths(self.config.max_length, extractor.max_length)
        across = (self.config.num_mel_bins - self.config.patch_size) // self.config.frequency_stride + 1
        along = (self.config.max_length - self.config.patch_size) // self.config.time_stride + 1
        self.positions = across * along + 2  # patches, and two tokens before them


class WhisperFrontEnd(FixedFrontEnd):
    """Log-mel frames of Whisper: "input_features" (B, F, T), of a fixed length or of as many seconds as a clip needs.

    Attributes:
        samples_per_position: samples for one position of the encoder.
    """

    time_axis = 2

    def __init__(self, config: PreTrainedConfig, extractor: Any) -> None:
        super().__init__(config, extractor)
        self.positions = int(self.config.max_source_positions)
        self.samples_per_position = 2 * int(extractor.hop_length)
        self.max_samples = int(extractor.n_samples)
        self._check_lengths(2 * self.positions, extractor.nb_max_frames)

    def masked_frames(self, samples: int) -> int:
        return 2 * int(self.own_positions(samples))

    def own_positions(self, samples: Any) -> Any:
        """Return how many positions of the encoder clips need, at least one and at most all.

        Args:
            samples: number of samples, or an array of such numbers.
        """
        return np.clip(-(-samples // self.samples_per_position), 1, self.positions)

    def own_features(self, waveforms: list[np.ndarray], positions: Sequence[int]) -> dict[str, Tensor]:
        """Return "input_features" (B, F, T) and "attention_mask" (B, T), 1 for two frames for each position of a clip.

        The frames are those of the clip padded with silence, as in :meth:`features`, as far as its positions and two
        more need them.
        """
        own = 2 * torch.as_tensor(positions)
        frames = (own + 4).clamp(max=2 * self.positions)
        longest = int(frames.max())
        # The last frames look ahead by half a window, into the silence.
        samples = longest * self.extractor.hop_length + self.extractor.n_fft
        made = self._extracted(waveforms, padding="max_length", max_length=samples)["input_features"][..., :longest]
        return {"input_features": made, "attention_mask": (torch.arange(longest) < own[:, None]).long()}


class ExtractedFrontEnd(FrontEnd):
    """The output of an unknown family's feature extractor; the model's frames cannot be counted."""

    def encoder_frames(self, samples: Any) -> Any:
        raise uncounted(self.config)

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        return self._extracted(waveforms, padding=True)

    def _receptive_field(self) -> int:
        return 1


CLASSES: dict[Input, type[FrontEnd]] = {
    "waveform": WaveformFrontEnd,
    "blocks": BlockFrontEnd,
    "log-mel": LogMelFrontEnd,
    "filter banks": FilterBankFrontEnd,
    "spectrogram": SpectrogramFrontEnd,
    "whisper": WhisperFrontEnd,
    "normalized log-mel": NormalizedLogMelFrontEnd,
    "unpadded log-mel": UnpaddedLogMelFrontEnd,
    "stacked log-mel": StackedLogMelFrontEnd,
    "extracted": ExtractedFrontEnd,
}


def make_front_end(config: PreTrainedConfig, extractor: FeatureExtractionMixin) -> FrontEnd:
    """Return the front end of a model.

    Raises:
        UserError: the feature extractor belongs to another family.
    """
    family = family_of(config)
    if not isinstance(extractor, getattr(transformers, family.extractor)):
        given = f"a {config.model_type} model with a {type(extractor).__name__}"
        raise UserError(given, f"it takes a {family.extractor}", "correct its preprocessor_config.json")
    return CLASSES[family.input](config, extractor)


def uncounted(config: PreTrainedConfig) -> UserError:
    """Return the error for a task that needs the number of frames that a model makes of a clip."""
    why = "the number of frames that it makes of a clip is unknown"
    return UserError(f"a {config.model_type} model", why, "take one of the wav2vec2, HuBERT or WavLM families")


def read_extractor(name: str, where: dict[str, Any], config: PreTrainedConfig) -> Any:
    """Return the checkpoint's own feature extractor, or else the default of its family.

    Args:
        where: arguments of ``from_pretrained``.

    Raises:
        UserError: it cannot be read, or its family is unknown.
    """
    brought = holds(name, "preprocessor_config.json", "processor_config.json")
    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(name, **where) if brought is not False else None
    except ImportError as error:
        raise lacking(name) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if brought:
            raise unreadable(name, error, "repair or remove its preprocessor_config.json") from error
        extractor = None
    if extractor is None:
        extractor = default_extractor(config)
        logger.info(
            "%s has no feature extractor: the default of its family is used (%d Hz)", name, extractor.sampling_rate
        )
    # Saved with the model: plain transformers, without exact padding, has to match the training of the checkpoint.
    extractor.return_attention_mask = wants_mask(config)
    return extractor


def default_extractor(config: PreTrainedConfig) -> FeatureExtractionMixin:
    """Return the default feature extractor of a family, for a checkpoint that has none.

    Raises:
        UserError: its family is unknown.
    """
    family = family_of(config)
    if family.input == "extracted":
        raise UserError(
            f"a {config.model_type} model", "it has no feature extractor", "add its preprocessor_config.json"
        )
    try:
        made: FeatureExtractionMixin = getattr(transformers, family.extractor)(**family.extractor_options(config))
    except ImportError as error:
        raise lacking(f"a {config.model_type} model") from error
    return made


def lacking(name: str) -> UserError:
    """Return the error for a feature extractor whose library is not installed."""
    return UserError(name, "its feature extractor needs torchaudio", f"{installer()} 'sft_speech[lm]'")


def wants_mask(config: PreTrainedConfig) -> bool:
    """Return whether plain transformers should give the model an attention mask: whether it was trained with one."""
    return family_of(config).trained_with_mask(config)
