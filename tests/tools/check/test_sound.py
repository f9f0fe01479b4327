"""Measurements of recordings."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tools.check.sound import measure

RATE = 16_000


def tone(seconds: float, amplitude: float = 0.5, rate: int = RATE) -> np.ndarray:
    """(S, 1) of 200 Hz."""
    return (amplitude * np.sin(2 * np.pi * 200 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[:, None]


def silence(seconds: float) -> np.ndarray:
    return np.zeros((round(seconds * RATE), 1), np.float32)


def test_level_and_peak():
    one = measure(tone(1.0), RATE)
    assert one.peak == pytest.approx(0.5, abs=1e-3)
    assert one.level_db == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
    assert (one.seconds, one.channels, one.clipped_share, one.silent_share) == (1.0, 1, 0.0, 0.0)
    assert one.offset == pytest.approx(0, abs=1e-6)
    assert measure(tone(1.0) + 0.25, RATE).offset == pytest.approx(0.25)


def test_silence_counts_within_and_at_the_ends_but_not_in_the_level():
    one = measure(np.concatenate([silence(0.5), tone(1.0), silence(1.0), tone(1.0), silence(1.5)]), RATE)
    assert one.silent_share == pytest.approx(0.6)
    assert one.leading_seconds == pytest.approx(0.5)
    assert one.trailing_seconds == pytest.approx(1.5)
    assert one.active_seconds == pytest.approx(3.0)
    assert one.level_db == pytest.approx(measure(tone(1.0), RATE).level_db, abs=0.1)
    # 40 dB is the limit.
    assert measure(np.concatenate([tone(1.0), tone(1.0, 0.5 * 10 ** (-38 / 20))]), RATE).silent_share == 0
    assert measure(np.concatenate([tone(1.0), tone(1.0, 0.5 * 10 ** (-42 / 20))]), RATE).silent_share == 0.5


def test_clipping_is_runs_of_three_at_full_scale():
    samples = np.full((1000, 1), 0.1, np.float32)
    samples[100:102] = 1.0  # a peak
    assert measure(samples, RATE).clipped_share == 0
    samples[200:203] = -1.0
    samples[300:307] = 0.9999
    assert measure(samples, RATE).clipped_share == pytest.approx(0.010)
    samples[400:450] = 0.99  # loud, not full
    assert measure(samples, RATE).clipped_share == pytest.approx(0.010)
    both = np.concatenate([np.zeros_like(samples), samples], axis=1)
    assert measure(both, RATE).clipped_share == pytest.approx(0.010)


def test_channels_that_cancel():
    left = tone(1.0)
    assert measure(np.concatenate([left, left], axis=1), RATE).cancelled_db == pytest.approx(0, abs=0.01)
    assert measure(np.concatenate([left, -0.9 * left], axis=1), RATE).cancelled_db > 20
    noise = np.random.default_rng(0).normal(0, 0.1, (RATE, 2)).astype(np.float32)
    assert measure(noise, RATE).cancelled_db == pytest.approx(3, abs=0.2)


def test_the_digest_is_of_the_samples_alone():
    clip = np.rint(32767 * np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 1))) / 32768
    clip = clip.astype(np.float32)
    same = measure(clip, RATE).digest
    assert measure(np.concatenate([clip, clip], axis=1), RATE).digest == same
    assert measure(np.concatenate([silence(0.1), clip, silence(0.2)]), RATE).digest == same
    other = clip.copy()
    other[2000] += 1 / 32768
    assert measure(other, RATE).digest != same


@pytest.mark.parametrize("samples", [1, 5, 319, 321])
def test_very_short_clips_can_be_measured(samples):
    one = measure(tone(1.0)[1 : samples + 1], RATE)
    assert one.seconds == samples / RATE
    assert all(np.isfinite(value) for value in one if isinstance(value, float))


def test_zeros_can_be_measured():
    one = measure(silence(1.0), RATE)
    assert one.silent_share == 1
    assert all(np.isfinite(value) for value in one if isinstance(value, float))
