"""What augmentation may do to a clip, and what not."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.audio import augment

RATE = 16_000
EVERY = [
    augment.speed,
    augment.vocal_tract,
    augment.drift,
    augment.equalize,
    augment.reverberate,
    augment.add_noise,
    augment.distort,
]


def clip(samples: int = 8009) -> np.ndarray:  # a prime number, which a Fourier transform likes least
    return (0.3 * np.sin(np.arange(samples) / 7)).astype(np.float32)


@pytest.mark.parametrize("augmentation", EVERY, ids=lambda a: a.__name__)
def test_a_seed_gives_one_result_and_another_seed_another(augmentation):
    first, again, other = (augmentation(clip(), RATE, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()


@pytest.mark.parametrize("augmentation", [a for a in EVERY if a is not augment.speed], ids=lambda a: a.__name__)
@pytest.mark.parametrize("samples", [2, 100, 8009])
def test_only_speed_changes_the_length(augmentation, samples):
    assert len(augmentation(clip(samples), RATE, np.random.default_rng(0))) == samples


def test_speed_stays_within_its_bounds():
    lengths = [len(augment.speed(clip(), RATE, np.random.default_rng(seed))) for seed in range(50)]
    assert 8009 / augment.FASTEST - 2 <= min(lengths) < 8009 < max(lengths) <= 8009 / augment.SLOWEST + 2


@pytest.mark.parametrize("augmentation", EVERY, ids=lambda a: a.__name__)
def test_silence_stays_a_number(augmentation):
    assert np.isfinite(augmentation(np.zeros(4000, np.float32), RATE, np.random.default_rng(0))).all()


def test_another_vocal_tract_moves_the_formant_and_leaves_the_pitch():
    harmonics = 125.0 * np.arange(1, 60)
    loudness = np.exp(-0.5 * ((harmonics - 1500) / 300) ** 2)  # one formant at 1500 Hz
    seconds = np.arange(16_384) / RATE
    voice = (loudness[:, None] * np.sin(2 * np.pi * np.outer(harmonics, seconds))).sum(0).astype(np.float32)
    formants = []
    for seed in range(20):
        spectrum = np.abs(np.fft.rfft(augment.vocal_tract(voice, RATE, np.random.default_rng(seed))))
        at_harmonics = spectrum[np.round(harmonics / RATE * 16_384).astype(int)]
        assert np.sum(at_harmonics**2) > 0.9 * np.sum(spectrum**2)  # all there is still stands on multiples of 125 Hz
        formants.append(np.sum(harmonics * at_harmonics**2) / np.sum(at_harmonics**2))
    assert 1500 / 1.25 < min(formants) < 1400
    assert 1600 < max(formants) < 1500 * 1.25


def test_noise_is_as_loud_as_it_was_drawn():
    speech = clip(80_000)
    noise = augment.add_noise(speech, RATE, np.random.default_rng(3)) - speech
    decibels = 10 * np.log10(np.mean(speech**2) / np.mean(noise**2))
    assert 5 <= decibels <= 40


def test_a_chain_leaves_out_what_it_does_not_draw():
    chain = [(augment.distort, 0.0), (augment.drift, 0.0)]
    assert np.array_equal(augment.apply(clip(), RATE, np.random.default_rng(0), chain), clip())
