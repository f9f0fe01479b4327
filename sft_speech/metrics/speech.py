"""Distance between synthesized speech and a recording of the same text: cepstra, pitch, voicing.

The two are first aligned by dynamic time warping, since nobody reads a text twice at the same pace. The figures depend
on the spectrograms and the pitch tracker: compare them with each other, not with those of other toolkits.

Legend: S samples, T and U mel frames of two recordings, M mel bands, P frame pairs of a warping path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sft_speech.metrics.intervals import bootstrap_interval, mean

CEPSTRA = 13  # coefficients 1 to 13; the 0th is loudness, which is not scored (Kubichek 1993)
DECIBELS = 10 / np.log(10) * np.sqrt(2)
PITCH_HERTZ = (60.0, 500.0)  # of human speech


def cepstra(mels: np.ndarray) -> np.ndarray:
    """Turn log10 mel magnitudes (T, M) into mel cepstra c (T, 13): ``ln |X| = c0 + sum of c_k cos(k w)``, w along M.

    An orthonormal cosine transform is larger by ``sqrt(M / 2)``, and so are its distortions in decibels.
    """
    from scipy.fft import dct

    bands = mels.shape[1]
    found: np.ndarray = dct(mels * np.log(10), type=2, norm="ortho", axis=1)[:, 1 : CEPSTRA + 1]
    return found * np.sqrt(2 / bands)


def warping_path(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Align two cepstra (T, 13), (U, 13) by librosa's dynamic time warping; return pairs of frames (P, 2)."""
    import librosa

    _, path = librosa.sequence.dtw(first.T, second.T, metric="euclidean")
    return path[::-1]


def mel_cepstral_distortion(first: np.ndarray, second: np.ndarray, path: np.ndarray) -> float:
    """Return the mel cepstral distortion in dB: ``10 / ln 10 * sqrt(2 * sum of squares)``, a mean over the path.

    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment", on the cepstra of
    :func:`cepstra` rather than those of a vocoder. It is the root mean square over the bands of the difference of two
    spectra in dB, as far as thirteen coefficients describe them.

    Args:
        first, second: (T, 13), (U, 13).
        path: (P, 2).
    """
    differences = first[path[:, 0]] - second[path[:, 1]]
    return float(DECIBELS * np.sqrt((differences**2).sum(1)).mean())


def pitch(waveform: np.ndarray, rate: int, hop: int, frames: int) -> np.ndarray:
    """Return the fundamental frequency (T,) in Hz, NaN in unvoiced frames (pYIN: Mauch and Dixon 2014).

    Args:
        waveform: (S,).
        hop: samples from one frame to the next, those of the mels.
        frames: T; pYIN's result is cut to it, or filled with unvoiced frames.
    """
    import librosa

    low, high = PITCH_HERTZ
    found, _, _ = librosa.pyin(waveform, fmin=low, fmax=high, sr=rate, frame_length=4 * hop, hop_length=hop)
    return np.pad(found[:frames], (0, max(0, frames - len(found))), constant_values=np.nan)


@dataclass(frozen=True)
class PitchErrors:
    """Pitch errors of one utterance.

    Attributes:
        log_f0_rmse: root mean square difference of natural logarithms over pairs that are both voiced; NaN without any.
        voicing_error: share of frame pairs of which only one is voiced.
    """

    log_f0_rmse: float
    voicing_error: float


def pitch_errors(first: np.ndarray, second: np.ndarray, path: np.ndarray) -> PitchErrors:
    """Compare two pitches (T,), (U,) in Hz along a path (P, 2)."""
    left, right = first[path[:, 0]], second[path[:, 1]]
    voiced = np.isfinite(left) & np.isfinite(right)
    different = np.isfinite(left) != np.isfinite(right)
    squares = (np.log(left[voiced]) - np.log(right[voiced])) ** 2
    return PitchErrors(float(np.sqrt(squares.mean())) if voiced.any() else float("nan"), float(different.mean()))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over utterances and its 95 % bootstrap interval; NaN values are left out."""
    finite = np.asarray([value for value in values if np.isfinite(value)])
    if not len(finite):
        return float("nan"), float("nan"), float("nan")
    found = bootstrap_interval(np.stack([finite, np.ones_like(finite)], axis=1), mean)
    return float(finite.mean()), found.low, found.high
