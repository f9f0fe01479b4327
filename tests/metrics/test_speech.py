"""Each metric on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.metrics.speech import (
    cepstra,
    mean_interval,
    mel_cepstral_distortion,
    pitch,
    pitch_errors,
    warping_path,
)

RATE, HOP = 16_000, 256


def ramp(frames: int = 40, bands: int = 80) -> np.ndarray:
    """Log-mels in which no two frames are alike."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(0, 0.5, (frames, bands)), axis=0)


def wave(periods: int, bands: int = 80) -> np.ndarray:
    """So many half periods of a cosine along the bands."""
    return np.cos(np.pi * periods * (2 * np.arange(bands) + 1) / (2 * bands))


def straight(frames: int) -> np.ndarray:
    return np.stack([np.arange(frames)] * 2, axis=1)


def test_the_same_recording_has_no_distortion():
    found = cepstra(ramp())
    assert mel_cepstral_distortion(found, found, warping_path(found, found)) == 0


@pytest.mark.parametrize("periods", [1, 5, 13])
@pytest.mark.parametrize("bands", [80, 40])
def test_spectra_apart_by_a_wave_of_six_decibels_are_so_far_apart_in_the_square_mean(periods, bands):
    mels = ramp(bands=bands)
    other = mels + 6 / 20 * wave(periods, bands)
    found = mel_cepstral_distortion(cepstra(mels), cepstra(other), straight(len(mels)))
    assert found == pytest.approx(6 / np.sqrt(2))


def test_loudness_and_coefficients_above_thirteen_cost_nothing():
    mels = ramp()
    other = mels + 0.7 + wave(14)
    assert mel_cepstral_distortion(cepstra(mels), cepstra(other), straight(len(mels))) == pytest.approx(0, abs=1e-9)


def test_a_slower_reading_of_the_same_costs_nothing():
    mels = ramp()
    slow = np.repeat(mels, 2, axis=0)
    first, second = cepstra(mels), cepstra(slow)
    path = warping_path(first, second)
    assert mel_cepstral_distortion(first, second, path) == pytest.approx(0, abs=1e-9)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [39, 79]


def hum(hertz: float, seconds: float = 0.6, quiet: float = 0.0) -> np.ndarray:
    samples = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * n * samples) / n for n in range(1, 8))
    wave = wave + np.random.default_rng(0).normal(0, 1e-4, len(samples))
    return np.concatenate([wave, np.random.default_rng(1).normal(0, 0.3, int(quiet * RATE))]).astype(np.float32)


def test_a_tone_ten_percent_higher_is_off_by_its_logarithm():
    frames = int(0.6 * RATE / HOP)
    low, high = pitch(hum(200), RATE, HOP, frames), pitch(hum(220), RATE, HOP, frames)
    found = pitch_errors(low, high, straight(frames))
    assert found.log_f0_rmse == pytest.approx(np.log(1.1), abs=0.005)
    assert found.voicing_error < 0.05


def test_noise_in_place_of_a_tone_is_an_error_of_voicing():
    frames = int(1.2 * RATE / HOP)
    voiced, half = pitch(hum(150, 1.2), RATE, HOP, frames), pitch(hum(150, 0.6, 0.6), RATE, HOP, frames)
    found = pitch_errors(voiced, half, straight(frames))
    assert found.voicing_error == pytest.approx(0.5, abs=0.12)
    assert found.log_f0_rmse < 0.02


def test_where_nothing_is_voiced_there_is_no_pitch_to_be_wrong():
    nothing = np.full(10, np.nan)
    found = pitch_errors(nothing, nothing, straight(10))
    assert np.isnan(found.log_f0_rmse)
    assert found.voicing_error == 0


def test_pitch_has_the_frames_asked_for():
    assert len(pitch(hum(200), RATE, HOP, 100)) == 100
    assert len(pitch(hum(200), RATE, HOP, 5)) == 5


def test_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    mean, low, high = mean_interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)  # of a normal distribution
    assert mean_interval([2.0]) == (2.0, 2.0, 2.0)
    assert mean_interval([2.0, float("nan"), 2.0]) == (2.0, 2.0, 2.0)
    assert all(np.isnan(mean_interval([])))
