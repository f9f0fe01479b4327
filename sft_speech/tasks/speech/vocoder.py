"""Vocoders: log-mel spectrograms to waveforms.

Legend: T frames, M mel bands, F frequency bins, S samples.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SpeechT5FeatureExtractor, SpeechT5HifiGan

from sft_speech.errors import UserError
from sft_speech.models.load import load_pretrained

logger = logging.getLogger(__name__)


class GriffinLim:
    """Phase reconstruction without a trained vocoder (Griffin and Lim 1984; the fast version, by librosa).

    The speech is intelligible but metallic.

    Args:
        extractor: extractor of the spectrograms.
        iterations: number of iterations of the reconstruction.
    """

    def __init__(self, extractor: SpeechT5FeatureExtractor, iterations: int = 60) -> None:
        self.extractor, self.iterations = extractor, iterations
        self.inverse = np.linalg.pinv(extractor.mel_filters.T)  # (F, M)

    def __call__(self, spectrogram: Tensor) -> np.ndarray:
        """Return the waveform, float32 (S,) with S = (T - 1) x hop, of log10 mels (T, M)."""
        import librosa

        extractor: Any = self.extractor
        mels = 10.0 ** spectrogram.detach().cpu().double().numpy().T.clip(-10, 10)  # (M, T)
        # librosa's nnls starts from this solution and hardly leaves it, but takes as long as all iterations below.
        magnitudes = (self.inverse @ mels).clip(0)  # (F, T)
        waveform = librosa.griffinlim(
            magnitudes,
            n_iter=self.iterations,
            hop_length=extractor.sample_stride,
            win_length=extractor.sample_size,
            n_fft=extractor.n_fft,
            random_state=0,
        )
        return waveform.astype(np.float32)


class HifiGan:
    """A trained vocoder (Kong et al. 2020, arXiv:2010.05646), such as ``microsoft/speecht5_hifigan``.

    Args:
        name: directory or Hub id.
        extractor: extractor of the spectrograms.
        device: "cpu", "cuda", ...
        allow_pickle: see :func:`~sft_speech.models.load.how_to_read_weights`.

    Raises:
        UserError: there is no such vocoder, its weights are pickled, or it takes other spectrograms.
    """

    def __init__(
        self,
        name: str,
        extractor: SpeechT5FeatureExtractor,
        device: str | torch.device = "cpu",
        allow_pickle: bool = False,
    ) -> None:
        model: Any
        do = "give the directory or id of a SpeechT5HifiGan"
        model, _ = load_pretrained(SpeechT5HifiGan, name, allow_pickle=allow_pickle, do=do)
        stride = int(np.prod(model.config.upsample_rates))
        found = (model.config.model_in_dim, model.config.sampling_rate, stride)
        wanted = (extractor.num_mel_bins, extractor.sampling_rate, extractor.sample_stride)
        if found != wanted:
            of = "{} bands at {} Hz, {} samples a frame".format
            raise UserError(
                f"vocoder {name}", f"it takes {of(*found)}; the model gives {of(*wanted)}", "choose another"
            )
        self.device = torch.device(device)
        self.model = model.to(self.device)

    def __call__(self, spectrogram: Tensor) -> np.ndarray:
        """Return the waveform, float32 (S,) with S = T x hop, of log10 mels (T, M)."""
        with torch.inference_mode():
            return self.model(spectrogram.float().to(self.device)).cpu().numpy()


def load_vocoder(
    name: str | None,
    extractor: SpeechT5FeatureExtractor,
    device: str | torch.device = "cpu",
    allow_pickle: bool = False,
) -> HifiGan | GriffinLim:
    """Load a vocoder by name; without a name, return Griffin-Lim and log it."""
    if name is not None:
        return HifiGan(name, extractor, device, allow_pickle)
    logger.info("no vocoder was given: Griffin-Lim is used, which sounds metallic (try microsoft/speecht5_hifigan)")
    return GriffinLim(extractor)
