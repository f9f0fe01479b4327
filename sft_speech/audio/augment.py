"""Waveform augmentation: the ways in which recordings differ.

Every function takes a float32 waveform (S,) of ``rate`` samples per second and a numpy generator, and returns a float32
waveform. The generator is the only source of randomness, so the same seed gives the same result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Waveform = np.ndarray
Augmentation = Callable[[Waveform, int, np.random.Generator], Waveform]
Chain = list[tuple[Augmentation, float]]  # each with its probability of being applied


SLOWEST, FASTEST = 0.85, 1.18  # speed factors; a clip becomes up to 1 / SLOWEST longer


def speed(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Play faster or slower: tempo, pitch and formants move together (Ko et al. 2015, "Audio augmentation")."""
    import soxr

    factor = np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST)))
    return soxr.resample(waveform, rate * factor, rate, quality="LQ").astype(np.float32)


def vocal_tract(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Lengthen or shorten the speaker's vocal tract by up to 20 %: formants move, pitch and tempo stay.

    Vocal tract length perturbation (Jaitly and Hinton 2013), on the waveform: the spectral envelope of each frame, held
    by its first cepstral coefficients, is stretched along the frequency axis while the harmonics stay.
    """
    from scipy import fft, signal

    size = 2 ** round(np.log2(0.032 * rate))
    if len(waveform) < size:
        return waveform
    factor = np.exp(rng.uniform(-np.log(1.2), np.log(1.2)))
    _, _, spectrum = signal.stft(waveform, nperseg=size, axis=-1)
    magnitude = np.abs(spectrum.T)  # (frames, size / 2 + 1)
    cepstrum = fft.irfft(np.log(magnitude + 1e-3 * magnitude.max() + 1e-9), axis=-1)
    order = round(0.002 * rate)  # 2 ms: shorter than the period of any voice below 500 Hz
    cepstrum[:, order : size - order + 1] = 0
    envelope = fft.rfft(cepstrum, axis=-1).real
    bins = np.arange(envelope.shape[1])
    below = np.minimum(bins / factor, bins[-1] - 1e-3)
    left = below.astype(int)
    moved = envelope[:, left] + (below - left) * (envelope[:, left + 1] - envelope[:, left])
    _, warped = signal.istft(spectrum * np.exp(np.clip(moved - envelope, -3, 3)).T, nperseg=size)
    return warped[: len(waveform)].astype(np.float32)


def drift(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Let the tempo drift by about 15 % a few times a second, as synthetic voices don't."""
    knots = max(2, int(len(waveform) / rate * 3) + 2)
    pace = np.exp(rng.normal(0, 0.15, knots))
    pace = np.interp(np.linspace(0, 1, len(waveform)), np.linspace(0, 1, knots), pace)
    positions = np.cumsum(pace)
    positions *= (len(waveform) - 1) / positions[-1]
    return np.interp(positions, np.arange(len(waveform)), waveform).astype(np.float32)


def equalize(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Colour the spectrum by a random smooth curve (standard deviation 6 dB), with random band limits."""
    from scipy import fft

    size = fft.next_fast_len(len(waveform), real=True)  # a prime length is ten times slower
    spectrum = fft.rfft(waveform, size)
    hertz = fft.rfftfreq(size, 1 / rate)
    mel = np.log1p(hertz / 700)  # the knots of the curve are evenly spaced in mel
    knots = np.linspace(0, mel[-1], 9)
    decibels = np.interp(mel, knots, rng.normal(0, 6, len(knots)))
    if rng.random() < 0.4:  # telephones, old microphones, codecs
        cutoff = rng.uniform(3000, rate / 2)
        decibels -= np.clip((hertz - cutoff) / cutoff, 0, 0.25) * 240
    if rng.random() < 0.4:
        cutoff = rng.uniform(60, 350)
        decibels -= np.clip((cutoff - hertz) / cutoff, 0, 1) * 40
    return fft.irfft(spectrum * 10 ** (decibels / 20), size)[: len(waveform)].astype(np.float32)


def reverberate(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Put the speaker into a room: decaying noise after the direct sound (Moorer 1979), RT60 of 0.1 to 0.6 s."""
    from scipy.signal import fftconvolve

    rt60 = rng.uniform(0.1, 0.6)
    seconds = np.arange(int(rt60 * rate)) / rate
    tail = rng.normal(0, 1, len(seconds)) * 10 ** (-3 * seconds / rt60)
    tail[: int(rng.uniform(0.001, 0.01) * rate)] = 0
    tail *= 10 ** (-rng.uniform(-3, 12) / 20) / np.sqrt(np.sum(tail**2) + 1e-9)
    tail[0] = 1
    return fftconvolve(waveform, tail)[: len(waveform)].astype(np.float32)


def add_noise(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Add steady or swelling noise of a random colour, 5 to 40 dB below the speech."""
    from scipy import fft

    size = fft.next_fast_len(len(waveform), real=True)
    spectrum = fft.rfft(rng.standard_normal(size, np.float32))
    spectrum *= np.maximum(fft.rfftfreq(size, 1 / rate), 50) ** -rng.uniform(0, 1.5)
    noise = fft.irfft(spectrum, size)[: len(waveform)]
    if rng.random() < 0.3:
        knots = max(2, int(len(waveform) / rate * 2) + 2)
        noise *= np.interp(np.linspace(0, 1, len(waveform)), np.linspace(0, 1, knots), np.exp(rng.normal(0, 1, knots)))
    decibels = rng.uniform(5, 40)
    gain = np.sqrt(np.mean(waveform**2) / (np.mean(noise**2) + 1e-12)) * 10 ** (-decibels / 20)
    return (waveform + gain * noise).astype(np.float32)


def distort(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Overdrive the recording: the loudest samples are compressed, as by a microphone that is too close."""
    drive = rng.uniform(0.5, 4) / (np.abs(waveform).max() + 1e-6)
    return (np.tanh(waveform * drive) / drive).astype(np.float32)


def apply(waveform: Waveform, rate: int, rng: np.random.Generator, chain: Chain) -> Waveform:
    """Apply the augmentations of ``chain`` in order, each with its own probability."""
    for augmentation, probability in chain:
        if rng.random() < probability:
            waveform = augmentation(waveform, rate, rng)
    return waveform


STANDARD: Chain = [
    (speed, 0.8),
    (vocal_tract, 0.5),
    (equalize, 0.8),
    (reverberate, 0.35),
    (add_noise, 0.7),
    (distort, 0.1),
]


def standard(waveform: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Augment a training utterance as ``augment: true`` does."""
    return apply(waveform, rate, rng, STANDARD)
