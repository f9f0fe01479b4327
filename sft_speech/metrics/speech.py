"""How near a spoken text is to a recording of it: cepstra, pitch, voicing, duration.

Both are first laid beside each other by dynamic time warping, since nobody says a text twice at the same pace. What a
figure is worth depends on its spectrograms and pitch tracker: compare figures of this file with each other, not with
those of other toolkits.

Legend: S samples, T and U mel frames of two recordings, M mel bands, P frame pairs of a warping path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CEPSTRA = 13  # coefficients 1 to 13; the 0th is loudness, which nobody is judged by (Kubichek 1993)
DECIBELS = 10 / np.log(10) * np.sqrt(2)
PITCH_HERTZ = (60.0, 500.0)  # of human speech
RESAMPLES = 1000


def cepstra(mels: np.ndarray) -> np.ndarray:
    """(T, M) log10 mels (of magnitudes) to (T, 13) mel cepstra c: ``ln |X| = c0 + sum of c_k cos(k w)``, w along M.

    An orthonormal cosine transform has ``sqrt(M / 2)`` times as much, and its distortions that many times the decibels.
    """
    from scipy.fft import dct

    bands = mels.shape[1]
    found: np.ndarray = dct(mels * np.log(10), type=2, norm="ortho", axis=1)[:, 1 : CEPSTRA + 1]
    return found * np.sqrt(2 / bands)


def warping_path(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of frames of two cepstra (T, 13), (U, 13) that say the same (librosa's dynamic time warping)."""
    import librosa

    _, path = librosa.sequence.dtw(first.T, second.T, metric="euclidean")
    return path[::-1]


def mel_cepstral_distortion(first: np.ndarray, second: np.ndarray, path: np.ndarray) -> float:
    """Mel cepstral distortion in dB: ``10 / ln 10 * sqrt(2 * sum of squares)``, a mean over the path.

    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment", on the cepstra of
    :func:`cepstra` rather than those of a vocoder. It is the root mean square over the bands of the difference of two
    spectra in dB, as far as thirteen coefficients tell it.

    Args:
        first, second: (T, 13), (U, 13).
        path: (P, 2).
    """
    differences = first[path[:, 0]] - second[path[:, 1]]
    return float(DECIBELS * np.sqrt((differences**2).sum(1)).mean())


def pitch(waveform: np.ndarray, rate: int, hop: int, frames: int) -> np.ndarray:
    """Fundamental frequency (T,) in Hz, NaN where nothing is voiced (pYIN: Mauch and Dixon 2014).

    Args:
        waveform: (S,).
        hop: samples from one frame to the next, those of the mels.
        frames: T; what pYIN has more or less is cut or unvoiced.
    """
    import librosa

    low, high = PITCH_HERTZ
    found, _, _ = librosa.pyin(waveform, fmin=low, fmax=high, sr=rate, frame_length=4 * hop, hop_length=hop)
    return np.pad(found[:frames], (0, max(0, frames - len(found))), constant_values=np.nan)


@dataclass(frozen=True)
class PitchErrors:
    """Of one utterance.

    Args:
        log_f0_rmse: root mean square of the difference of natural logarithms, where both are voiced; NaN where nowhere.
        voicing_error: share of frame pairs of which one is voiced and the other isn't.
    """

    log_f0_rmse: float
    voicing_error: float


def pitch_errors(first: np.ndarray, second: np.ndarray, path: np.ndarray) -> PitchErrors:
    """How pitches (T,), (U,) in Hz differ along a path (P, 2)."""
    left, right = first[path[:, 0]], second[path[:, 1]]
    voiced = np.isfinite(left) & np.isfinite(right)
    different = np.isfinite(left) != np.isfinite(right)
    squares = (np.log(left[voiced]) - np.log(right[voiced])) ** 2
    return PitchErrors(float(np.sqrt(squares.mean())) if voiced.any() else float("nan"), float(different.mean()))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over utterances, and its 95 % bootstrap interval (scipy's, percentiles); NaN values are left out."""
    from scipy.stats import bootstrap

    finite = np.asarray([value for value in values if np.isfinite(value)])
    if not len(finite):
        return float("nan"), float("nan"), float("nan")
    mean = float(finite.mean())
    if len(finite) == 1 or np.ptp(finite) == 0:
        return mean, mean, mean
    found = bootstrap((finite,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return mean, float(found.confidence_interval.low), float(found.confidence_interval.high)
